"""The oracle row: the choice of an exhaustive search, although hopeless candidates are given up early."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mnp_plugin.contracts import Images, Purified, Triggered
from mnp_plugin.evaluation.measure import measure
from mnp_plugin.evaluation.oracle import oracle_choice, predictions_within
from mnp_plugin.report.records import Scores

N = 12


class Answers(nn.Module):
    """Says of image i what it was told; counts what it was asked."""

    def __init__(self, said: list[int]) -> None:
        super().__init__()
        self.said, self.asked = torch.tensor(said), 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return nn.functional.one_hot(self.said[(x[:, 0, 0, 0] * 255).round().long()], 3).float()


def pictures(first: int) -> Tensor:
    return torch.arange(first, first + N, dtype=torch.uint8).reshape(N, 1, 1, 1)


answers = st.lists(st.integers(0, 2), min_size=2 * N, max_size=2 * N)
shares = st.integers(-1, N + 1).map(lambda n: n / N)


@given(answers, shares, shares, st.integers(1, N))
def test_predictions_are_given_up_only_where_they_must_miss_the_bounds(
    said: list[int], above: float, below: float, batch: int
) -> None:
    y = torch.zeros(N, dtype=torch.int64)
    found = predictions_within(Answers(said), pictures(0), y, above=above, below=below, batch=batch)
    share = said[:N].count(0) / N
    assert (found is not None) == (above < share < below)
    assert found is None or found.tolist() == said[:N]


def test_a_hopeless_candidate_costs_one_batch() -> None:
    model = Answers([1] * 2 * N)
    assert predictions_within(model, pictures(0), torch.zeros(N, dtype=torch.int64), above=0.9, batch=2) is None
    assert model.asked == 2


@given(st.lists(answers, min_size=1, max_size=6), st.floats(0.1, 1))
def test_the_choice_is_that_of_an_exhaustive_search(nets: list[list[int]], acc: float) -> None:
    def candidates() -> Iterator[tuple[Mapping[str, float], nn.Module]]:
        for number, said in enumerate(nets):
            yield {"number": float(number)}, Answers(said)

    truth, attack = torch.zeros(N, dtype=torch.int64), torch.ones(N, dtype=torch.int64)
    test = Images(pictures(0), truth)
    triggered = Triggered(pictures(N).float() / 255, truth, attack, torch.arange(N))
    purified = Purified(model=nn.Identity(), candidates=candidates)
    chosen = oracle_choice(purified, Scores(acc=acc, asr=1.0, ra=0.0), test, triggered)
    all_scores = [(measure(Answers(said), test, triggered), n) for n, said in enumerate(nets)]
    fit = [(s.asr, n, s) for s, n in all_scores if s.acc > 0.9 * acc and s.asr is not None]
    if not fit:
        assert chosen is None
    else:
        _, number, scores = min(fit, key=lambda found: found[:2])
        assert chosen == (scores, {"number": float(number)})

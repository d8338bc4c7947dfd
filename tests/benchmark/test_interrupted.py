"""A training that is interrupted goes on between two epochs, to the very same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.partial import Partial
from mnp_plugin.benchmark.runner import Runner
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import VictimSpec
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.contracts import State

SUITE = """
dataset: {name: digits, size: 16}
net: {name: smallnet, width: 4}
recipe: {epochs: 4, batch_size: 64, crop: 1, flip: false, small_epochs: 2, small_scale: 0.5}
clean_budget: {images: 40}
attacks:
  - badnets
  - {name: wanet, poison_ratio: 0.01}
  - bpp
  - {name: input_aware, width: 4, mask_epochs: 1}
  - {name: lira, eps: 0.05}
defenses: [none]
"""
VICTIMS = parse_suite(SUITE, "test", "interrupted").victims


def trained(victim: VictimSpec, folder: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int | None) -> dict[str, Any]:
    """Weights and trigger state of a victim, its training stopped once after some epochs and taken up again."""
    store = Store(folder / "store", folder / "results")
    suite = replace(parse_suite(SUITE, "test", "interrupted"), victims=(victim,))
    monkeypatch.setattr(Partial, "EVERY", 0.0)
    if stop_after is not None:
        with monkeypatch.context() as patch:
            save = Partial.save

            def interrupt(self: Partial, state: State) -> None:
                save(self, state)
                if int(state["done"]) == stop_after:
                    raise KeyboardInterrupt

            patch.setattr(Partial, "save", interrupt)
            with pytest.raises(KeyboardInterrupt):
                Runner(suite, store, torch.device("cpu")).run()
        assert store.load_victim(victim) is None
        assert store.load_partial(victim) is not None
    Runner(suite, store, torch.device("cpu")).run()
    assert store.load_partial(victim) is None, "what was kept for an interruption stays behind"
    found = store.load_victim(victim)
    assert found is not None
    return {**{f"model.{k}": v for k, v in found[0].items()}, **found[1]}


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda v: v.attack.label)
def test_an_interrupted_training_ends_in_the_same_victim(
    victim: VictimSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(victim, tmp_path / "whole", monkeypatch, None)
    resumed = trained(victim, tmp_path / "resumed", monkeypatch, 3)
    assert whole.keys() == resumed.keys()
    different = [key for key in whole if not torch.equal(whole[key], resumed[key])]
    assert not different


def test_a_resumed_training_trains_only_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    train = stages.train_victim

    def counted(*args: Any) -> Any:
        *first, progress, keep = args

        def count(done: int, of: int, loss: float) -> None:
            epochs.append(done)
            progress(done, of, loss)

        return train(*first, count, keep)

    monkeypatch.setattr(stages, "train_victim", counted)
    trained(VICTIMS[0], tmp_path, monkeypatch, 2)
    assert epochs == [1, 2, 3, 4]


def test_a_damaged_rest_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path / "results")
    victim = VICTIMS[0]
    store.save_partial(victim, {"done": torch.tensor(1)})
    path = next((tmp_path / "store").rglob("*.partial"))
    path.write_bytes(path.read_bytes()[:-3])
    assert store.load_partial(victim) is None
    assert not path.exists()

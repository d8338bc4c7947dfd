"""The training loop, its schedule and its batches; prediction in eval mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnp_plugin.contracts import Images, MethodError, Recipe, TrainingHook
from mnp_plugin.data.digits import Digits
from mnp_plugin.evaluation.predict import accuracy, logits
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.training.device import autocast, uses_bfloat16
from mnp_plugin.training.loop import batches, fit, one_cycle

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, batch_size=50, crop=1, flip=False, precision="float32")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Digits(size=8, channels=1).load(tmp_path_factory.mktemp("cache")).train[:300]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return SmallNet(width=8).build(10, (1, 8, 8))


def changed(recipe: Recipe, **settings: object) -> Recipe:
    return Recipe(**{**vars(recipe), **settings})


def test_fit_learns_and_reports_each_epoch(digits: Images) -> None:
    model, told = net(), []
    fit(model, digits, changed(RECIPE, epochs=12), stream(), progress=lambda *news: told.append(news))
    assert [(done, total) for done, total, _ in told] == [(i, 12) for i in range(1, 13)]
    losses = [loss for *_, loss in told]
    assert losses[0] == pytest.approx(math.log(10), rel=0.3)
    assert losses[-1] < losses[0] / 2
    assert accuracy(model, digits) > 0.8
    assert not model.training


def test_fit_is_bitwise_the_same_under_the_same_seed(digits: Images) -> None:
    weights = []
    for seed in (0, 0, 1):
        model = net()
        fit(model, digits, RECIPE, stream(seed))
        weights.append(model.state_dict())
    first, again, other = weights
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


class Hook(TrainingHook):
    """A training hook made of one function of a batch."""

    def __init__(self, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.change = change

    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        return self.change(x, y)


def test_fit_leaves_its_images(digits: Images) -> None:
    kept = Images(digits.x.clone(), digits.y.clone())
    fit(net(), digits, changed(RECIPE, epochs=1), stream(), hook=Hook(lambda x, y: (x.mul_(0), y.mul_(0))))
    assert torch.equal(digits.x, kept.x)
    assert torch.equal(digits.y, kept.y)


def test_hook_sees_raw_batches_and_what_it_returns_is_learned(digits: Images) -> None:
    known = {row.tobytes() for row in digits.x.numpy()}
    seen: list[int] = []

    def hook(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert x.dtype == torch.float32
        assert {row.tobytes() for row in (x * 255).round().to(torch.uint8).numpy()} <= known, "augmented before the hook"
        seen.append(len(x))
        return x, torch.full_like(y, 3)

    model = net()
    fit(model, digits, RECIPE, stream(), hook=Hook(hook))
    assert seen == [50] * (4 * 6)
    assert bool((logits(model, digits.x).argmax(1) == 3).all())


def test_hook_sees_augmented_batches_if_it_says_so(digits: Images) -> None:
    seen: list[Tensor] = []

    class After(Hook):
        augmented = True

    def hook(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x)
        return torch.zeros_like(x), y

    taught: list[Tensor] = []

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        taught.append(x)
        return F.cross_entropy(model(x), y)

    fit(net(), digits, changed(RECIPE, epochs=1, crop=2), stream(), hook=After(hook), loss=loss)
    known = {row.tobytes() for row in digits.x.numpy()}
    rows = [row.tobytes() for x in seen for row in (x * 255).round().to(torch.uint8).numpy()]
    assert sum(row in known for row in rows) < 0.5 * len(rows), "not augmented before the hook"
    assert not torch.cat(taught).any(), "something was done to what the hook gave"


def test_custom_loss_replaces_cross_entropy(digits: Images) -> None:
    def always_seven(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), torch.full_like(y, 7))

    model = net()
    fit(model, digits, RECIPE, stream(), loss=always_seven)
    assert bool((logits(model, digits.x).argmax(1) == 7).all())


def flat_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """No slope anywhere, so that weight decay alone moves the weights."""
    return torch.stack([p.sum() for p in model.parameters()]).sum() * 0


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"batch_size": 300, "momentum": 0.8, "warmup": 0.0}, 1 - 0.5 * 0.1 * 1.8),
        ({"batch_size": 150, "momentum": 0.0, "warmup": 0.5}, (1 - 0.5 * 0.1 / 2) * (1 - 0.5 * 0.1)),
    ],
    ids=["nesterov", "schedule"],
)
def test_steps_are_sgd_with_nesterov_weight_decay_and_schedule(
    digits: Images, settings: dict[str, object], factor: float
) -> None:
    """One step at the peak: w (1 - lr wd (1 + momentum)). Two steps, the first warming up at half the peak: without momentum."""
    model = net()
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    fit(model, digits, changed(RECIPE, epochs=1, lr=0.5, weight_decay=0.1, **settings), stream(), loss=flat_loss)
    for key, now in model.named_parameters():
        assert torch.allclose(now, before[key] * factor, rtol=1e-5, atol=1e-7)


def test_label_smoothing_is_in_the_loss(digits: Images) -> None:
    told: dict[float, float] = {}
    for smoothing in (0.0, 0.9):
        recipe = changed(RECIPE, epochs=1, batch_size=300, label_smoothing=smoothing, crop=0)
        fit(net(), digits, recipe, stream(), progress=lambda a, b, loss, s=smoothing: told.update({s: loss}))  # type: ignore[misc]
    model = net().train()
    scores = model(digits.pixels())
    log = scores.detach().log_softmax(1)
    hard = -log.gather(1, digits.y[:, None]).mean()
    soft = 0.1 * hard - 0.9 * log.mean()
    assert told[0.0] == pytest.approx(float(hard), rel=1e-4)
    assert told[0.9] == pytest.approx(float(soft), rel=1e-4)


def test_divergence_is_told(digits: Images) -> None:
    with pytest.raises(MethodError, match="diverged in epoch 1: the loss is not finite"):
        fit(net(), digits, changed(RECIPE, lr=1e30), stream())


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_used_in_the_loop_and_weights_stay_float32(digits: Images, precision: str, dtype: torch.dtype) -> None:
    dtypes: set[torch.dtype] = set()

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        out = model(x)
        dtypes.add(out.dtype)
        return F.cross_entropy(out, y)

    model = net()
    fit(model, digits, changed(RECIPE, precision=precision, epochs=12), stream(), loss=loss)
    assert dtypes == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert logits(model, digits.x[:5]).dtype == torch.float32
    assert accuracy(model, digits) > 0.8


def test_precision_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uses_bfloat16("bfloat16", CPU)
    assert not uses_bfloat16("float32", CPU)
    for flags, expected in (("fpu avx512_bf16 sse", True), ("amx_bf16", True), ("fpu avx2 avx512f", False)):
        monkeypatch.setattr(Path, "read_text", lambda *_, text=flags, **__: text)
        monkeypatch.setattr(Path, "exists", lambda *_, **__: True)
        assert uses_bfloat16("auto", CPU) is expected
    monkeypatch.setattr(Path, "exists", lambda *_, **__: False)
    assert not uses_bfloat16("auto", CPU)


def test_autocast_is_off_for_float32() -> None:
    a = torch.ones(2, 2)
    with autocast("float32", CPU):
        assert (a @ a).dtype == torch.float32
    with autocast("bfloat16", CPU):
        assert (a @ a).dtype == torch.bfloat16


# --------------------------------------------------------------------------------------------------- schedule and batches


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_one_cycle_warms_up_and_decays(schedule: str) -> None:
    recipe = changed(RECIPE, warmup=0.2, schedule=schedule)
    factors = [one_cycle(step, 10, recipe) for step in range(10)]
    decay = [1 - k / 8 for k in range(8)] if schedule == "linear" else [math.cos(math.pi * k / 16) ** 2 for k in range(8)]
    assert factors == pytest.approx([1 / 3, 2 / 3, *decay])
    assert max(factors) == 1
    assert all(later < earlier for earlier, later in pairwise(factors[2:]))
    assert 0 < factors[-1] < 0.2


def test_one_cycle_without_warm_up_starts_at_the_peak() -> None:
    assert one_cycle(0, 10, changed(RECIPE, warmup=0.0)) == 1
    assert one_cycle(0, 1, changed(RECIPE, warmup=0.0)) == 1


def test_batches_cover_each_image_at_most_once_in_a_shuffled_order() -> None:
    parts = list(batches(20, 6, stream(), CPU))
    flat = torch.cat(parts).tolist()
    assert [len(part) for part in parts] == [6, 6, 6]
    assert len(set(flat)) == 18
    assert set(flat) <= set(range(20))
    assert flat != sorted(flat)
    again, other = (torch.cat(list(batches(20, 6, stream(seed), CPU))).tolist() for seed in (0, 1))
    assert flat == again
    assert flat != other


@pytest.mark.parametrize(("count", "size", "expected"), [(12, 4, [4, 4, 4]), (4, 4, [4]), (3, 4, [3]), (7, 4, [4])])
def test_batches_drop_the_smaller_rest_unless_it_is_all(count: int, size: int, expected: list[int]) -> None:
    parts = list(batches(count, size, stream(), CPU))
    assert [len(part) for part in parts] == expected
    assert len(torch.cat(parts).unique()) == sum(expected)


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(12, 4, [4, 4, 4]), (3, 4, [3]), (6, 4, [4, 2]), (5, 4, [4]), (1, 4, [1])]
)
def test_a_wanted_rest_is_a_batch_unless_it_is_one_image(count: int, size: int, expected: list[int]) -> None:
    parts = batches(count, size, stream(), CPU, rest=True)
    assert [len(part) for part in parts] == expected
    assert len(torch.cat(parts).unique()) == sum(expected)


def test_a_rest_is_trained_on_and_counted_as_a_step(digits: Images) -> None:
    few = digits[: RECIPE.batch_size + 2]
    seen: list[tuple[int, int]] = []
    sizes: list[int] = []

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(y))
        return F.cross_entropy(model(x), y)

    def schedule(step: int, steps: int, recipe: Recipe) -> float:
        seen.append((step, steps))
        return 1.0

    fit(net(), few, changed(RECIPE, epochs=2), stream(), loss=loss, schedule=schedule, rest=True)
    assert sizes == [RECIPE.batch_size, 2] * 2
    assert seen == [(step, 4) for step in range(4)]


# ------------------------------------------------------------------------------------------------------------- prediction


def test_logits_depend_on_neither_batch_size_nor_mode_nor_dtype(digits: Images) -> None:
    model = net()
    fit(model, digits, changed(RECIPE, epochs=1), stream())
    statistics = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        expected = model.eval()(digits.pixels())
    for size in (1, 7, 300, 1000):
        assert torch.allclose(logits(model.train(), digits.x, batch=size), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(logits(model, digits.pixels(), batch=64), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, statistics[key]) for key, value in model.state_dict().items())


def test_accuracy_counts_right_answers() -> None:
    x = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    for image, brightest in enumerate((0, 3, 2, 2)):
        x[image].view(-1)[brightest] = 200
    assert accuracy(nn.Flatten(), Images(x, torch.tensor([0, 3, 2, 1]))) == 0.75

"""What a caller finds after ``purify``, ``detect`` and ``with_normalisation``: everything as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import googlenet

from mnp_plugin import UserError, detect, purify, with_normalisation
from mnp_plugin.api import given
from mnp_plugin.contracts import Images, Recipe
from mnp_plugin.evaluation.predict import accuracy

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 20}
BRIEF: dict[str, Any] = {
    "draws": 1, "nulls": 1, "expose": False, "searches": 1, "images": 8, "steps": 2, "mask_steps": 2, "restore_steps": 2,
}  # fmt: skip

Act = Callable[[nn.Module, Images, Recipe], object]


def repair(model: nn.Module, clean: Images, recipe: Recipe) -> object:
    return purify(model, clean.x, clean.y, defense="ft", settings=QUICK, recipe=recipe)


def judge(model: nn.Module, clean: Images, recipe: Recipe) -> object:
    return detect(model, clean.x, clean.y, settings=BRIEF, recipe=recipe)


def refused(model: nn.Module, clean: Images, recipe: Recipe) -> object:
    with pytest.raises(UserError):
        return purify(model, clean.x, clean.y + 5, defense="ft", settings=QUICK, recipe=recipe)


ACTS = pytest.mark.parametrize("act", [repair, judge, refused])


def streams() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index, union-attr]


@ACTS
def test_the_model_stays_as_it_was(model: nn.Module, clean: Images, recipe: Recipe, act: Act) -> None:
    model.train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    frozen.weight.requires_grad_(False)
    model(clean.pixels()).sum().backward()
    calls: list[int] = []
    handle = next(m for m in model.modules() if isinstance(m, nn.Linear)).register_full_backward_hook(
        lambda *_: calls.append(1) or None  # type: ignore[func-returns-value]
    )
    before = [
        {key: value.clone() for key, value in model.state_dict().items()},
        {key: None if p.grad is None else p.grad.clone() for key, p in model.named_parameters()},
    ]
    flags = [(m.training, len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    act(model, clean, recipe)
    assert calls == [], "backward hooks are not copied"
    handle.remove()
    after = [model.state_dict(), {key: p.grad for key, p in model.named_parameters()}]
    for old, new in zip(before, after, strict=True):
        for key, value in old.items():
            assert new[key] is None if value is None else torch.equal(new[key], value), key
    now = [(m.training, len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    assert [flag[:2] for flag in now] == [flag[:2] for flag in flags]
    assert [p.requires_grad for p in model.parameters()] == wanted


@ACTS
def test_global_state_stays_as_it_was(model: nn.Module, clean: Images, recipe: Recipe, act: Act) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    torch.set_default_dtype(torch.float64)
    try:
        before = streams()
        act(model, clean, recipe)
        assert streams() == before
        assert torch.get_default_dtype() == torch.float64
        assert torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
def test_results_do_not_depend_on_the_callers_grad_mode(
    model: nn.Module, clean: Images, recipe: Recipe, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    usual = purify(model, clean.x, clean.y, defense="ft", settings=QUICK, recipe=recipe).model.state_dict()
    with mode():
        x, y = clean.x.clone(), clean.y.clone()  # inference tensors in inference mode
        result = purify(model, x, y, defense="ft", settings=QUICK, recipe=recipe)
        verdict = detect(model, x, y, settings=BRIEF, recipe=recipe)
    assert all(torch.equal(value, usual[key]) for key, value in result.model.state_dict().items())
    assert verdict.score == detect(model, clean.x, clean.y, settings=BRIEF, recipe=recipe).score
    result.model(clean.pixels()).sum().backward()  # no inference tensors come out
    assert all(p.grad is not None for p in result.model.parameters())


def record_shapes(_module: nn.Module, args: Any, *_: Any) -> None:
    SEEN.append(tuple(args[0].shape))


def double(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
    return 2 * out


SEEN: list[Any] = []


@pytest.mark.parametrize("act", [repair, judge])
def test_hooks_on_the_forward_pass_are_named_once_and_kept(model: nn.Module, clean: Images, recipe: Recipe, act: Act) -> None:
    """Nobody can tell an observer from a part of the net without calling it: the caller is told what happens, and what to do."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(record_shapes)
    model.register_forward_pre_hook(partial(record_shapes))
    with pytest.warns(UserWarning, match="hooks on its forward pass") as caught:
        act(model, clean, recipe)
    (said,) = [str(one.message) for one in caught if "hooks on" in str(one.message)]
    assert said.count("record_shapes") == 2
    assert "record_shapes on the whole net" in said
    assert "handle.remove()" in said
    assert all(one.filename == __file__ for one in caught)
    assert len(first._forward_hooks) == 1


def test_a_hook_that_changes_the_output_is_part_of_what_is_repaired(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    model.eval().register_forward_hook(double)
    expected = model(clean.pixels())
    with pytest.warns(UserWarning, match="double on the whole net"):
        result = purify(model, clean.x, clean.y, defense="none", recipe=recipe)
    assert torch.allclose(result.model(clean.pixels()), expected, atol=1e-5)


# -- with_normalisation

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)


def test_with_normalisation_gives_a_copy_and_leaves_the_net() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x = torch.rand(5, 3, 2, 2)
    outside = net((x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    before = net(x)
    inside = with_normalisation(net, MEAN, STD)
    assert torch.allclose(inside(x), outside, atol=1e-6)
    assert torch.equal(net(x), before)
    assert type(inside) is type(net)
    assert list(inside.state_dict()) == list(net.state_dict())
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in inside.parameters()}


def test_with_normalisation_twice_or_with_odd_numbers_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UserError, match="normalises its input already"):
        with_normalisation(with_normalisation(net, MEAN, STD), MEAN, STD)
    for mean, std in ((MEAN, STD[:2]), ((), ()), (MEAN, (0.2, 0.0, 0.4))):
        with pytest.raises(UserError, match="one mean and one std above 0 per channel"):
            with_normalisation(net, mean, std)


# -- what people hand in


def test_numpy_arrays_are_taken(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    usual = purify(model, clean.x, clean.y, defense="ft", settings=QUICK, recipe=recipe).model.state_dict()
    for x, y in ((clean.x.numpy(), clean.y.numpy().astype(np.int32)), (clean.pixels().double().numpy(), clean.y.numpy())):
        x.flags.writeable = False
        result = purify(model, x, y, defense="ft", settings=QUICK, recipe=recipe)
        assert all(torch.equal(value, usual[key]) for key, value in result.model.state_dict().items())


def test_wrapped_nets_are_unwrapped(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    usual = purify(model, clean.x, clean.y, defense="ft", settings=QUICK, recipe=recipe).model.state_dict()
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        result = purify(wrapped, clean.x, clean.y, defense="ft", settings=QUICK, recipe=recipe)  # type: ignore[arg-type]
        assert list(result.model.state_dict()) == list(usual)
        assert all(torch.equal(value, usual[key]) for key, value in result.model.state_dict().items())


class Views(nn.Module):
    """Flattens with ``view``, as most tutorials do; fails on channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.last = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.bn(self.conv(x))).view(len(x), -1))  # type: ignore[no-any-return]


def test_nets_that_flatten_with_view_work(clean: Images, recipe: Recipe) -> None:
    result = purify(Views(), clean.x, clean.y, defense="anp", settings={"iterations": 2}, recipe=recipe)
    assert result.model(clean.pixels().contiguous()).shape == (60, 10)
    tuned = purify(Views(), clean.x, clean.y, defense="ft", settings={"epochs": 1}, recipe=recipe)  # trains
    assert tuned.model(clean.pixels().contiguous()).shape == (60, 10)
    assert detect(Views(), clean.x, clean.y, settings=BRIEF, recipe=recipe).report["undecided"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": None}, "validation must be a share between 0 and 1, not None"),
        ({"recipe": "brief"}, "recipe must be a Recipe"),
        ({"settings": "agreement=0.5"}, "settings must be a mapping"),
    ],
)
def test_arguments_of_another_type_are_named(clean: Images, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        purify(Views(), clean.x, clean.y, **change)


def test_a_net_without_numbers_is_refused(clean: Images) -> None:
    with pytest.raises(UserError, match="meta device"):
        purify(Views().to("meta"), clean.x, clean.y)


class Keeps(nn.Module):
    """Keeps its last features."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(192, 10)
        self.features: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.last(x.flatten(1))
        return self.features


class Tells(nn.Module):
    """Gives more than logits."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.last = nn.Linear(192, 10)
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.last(x.flatten(1)))


class TellsInTraining(Tells):
    """Gives more than logits in train mode."""

    def forward(self, x: Tensor) -> object:
        return super().forward(x) if self.training else self.last(x.flatten(1))


class Bound(nn.Module):
    """Cannot be called in train mode without targets."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise ValueError("targets should not be none when in training mode")
        return self.last(x.flatten(1))  # type: ignore[no-any-return]


class Twice(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.BatchNorm2d(3)
        self.two = self.one
        self.last = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(self.one(x)).flatten(1))  # type: ignore[no-any-return]


def damaged() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.ReLU(), nn.Linear(192, 10))
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(3e38)
    return net


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))


def exported() -> object:
    return torch.export.export(linear().eval(), (torch.rand(2, 3, 8, 8),))


MODELS: list[tuple[Callable[[], object], str]] = [
    (lambda: None, "must be a torch.nn.Module, not NoneType"),
    (lambda: "net.pt", "not str; for a checkpoint file use repair_checkpoint"),
    (lambda: linear().state_dict(), "is a state dict; build the net"),
    (lambda: torch.jit.trace(linear(), torch.rand(2, 3, 8, 8)), "a TorchScript module cannot be repaired or judged"),
    (exported, "an exported program cannot be repaired or judged"),
    (lambda: exported().module(), "an exported program cannot be repaired or judged"),  # type: ignore[attr-defined]
    (nn.Flatten, "has no parameters"),
    (lambda: linear().half(), r"weights are torch\.float16; give it in float32"),
    (lambda: linear().bfloat16(), r"weights are torch\.bfloat16"),
    (lambda: linear().double(), r"weights are torch\.float64"),
    (lambda: Tells(lambda out: (out, out)), "gives a tuple, not logits"),
    (lambda: Tells(lambda out: {"logits": out}), "gives a dict, not logits"),
    (lambda: Tells(lambda out: out[:, 0]), "do not fit the model's output of shape"),
    (lambda: TellsInTraining(lambda out: (out, out)), "in train mode it gives a tuple, .* make its forward give the logits"),
    (lambda: TellsInTraining(lambda out: out[:, 0]), r"in train mode it gives a tensor of shape \[2\], not logits"),
    (Bound, r"fails in train mode \(targets should not be none when in training mode\)"),
    (Twice, "one module with weights stands under two names, 'one' and 'two'"),
    (Keeps, r"cannot be copied .* keep them detached"),
    (damaged, "outputs on the clean images are not finite"),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit
@pytest.mark.parametrize(("make", "message"), MODELS, ids=[message[:40] for _, message in MODELS])
@pytest.mark.parametrize("verb", [purify, detect])
def test_models_that_cannot_be_treated(verb: Any, make: Callable[[], object], message: str, clean: Images) -> None:
    with pytest.raises(UserError, match=message):
        verb(make(), clean.x, clean.y)


@pytest.mark.parametrize("verb", [purify, detect])
def test_auxiliary_heads_are_to_be_dropped_first(verb: Any, clean: Images) -> None:
    net = googlenet(num_classes=10, aux_logits=True, init_weights=False)
    x = clean.x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    with pytest.raises(UserError, match="in train mode it gives a GoogLeNetOutputs, not logits") as refused:
        verb(net, x, clean.y)
    assert str(refused.value).endswith("model.aux1 = model.aux2 = None and model.aux_logits = False")
    net.aux1 = net.aux2 = None
    net.aux_logits = False
    assert given.training_fault(net, x[:2].float() / 255) == ""


def test_a_net_that_has_kept_its_features_already(clean: Images) -> None:
    net = Keeps()
    net(clean.pixels())
    with pytest.raises(UserError, match="cannot be copied"):
        purify(net, clean.x, clean.y, defense="ft")


@pytest.mark.parametrize("verb", [purify, detect])
def test_images_and_methods_that_cannot_be_taken(verb: Any, model: nn.Module, clean: Images) -> None:
    loader = torch.utils.data.DataLoader([(x, y) for x, y in zip(clean.x, clean.y, strict=True)])
    for x, y, message in (
        (loader, clean.y, "x must be a tensor or a NumPy array with all images, not DataLoader"),
        ("clean/", clean.y, "x must be .* not str"),
        (clean.x, list(clean.y), "y must be .* not list"),
        (clean.x.permute(0, 2, 3, 1), clean.y, r"looks like \[N, H, W, C\]"),
        (clean.x, np.array(["a"] * 60), "y is an array of <U1; give numbers"),
        (clean.x, torch.full_like(clean.y, 7), "all clean images are of class 7"),
    ):
        with pytest.raises(UserError, match=message):
            verb(model, x, y)
    for seed in (None, -1, 2**64, 1.5):
        with pytest.raises(UserError, match="seed must be a whole number"):
            verb(model, clean.x, clean.y, seed=seed)


def test_each_verb_takes_its_own_kind_of_method(model: nn.Module, clean: Images) -> None:
    from mnp_plugin.contracts import defenses, detectors

    with pytest.raises(UserError, match="MNPDetector is no defense"):
        purify(model, clean.x, clean.y, defense=detectors.get("mnp")())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is no detector"):
        detect(model, clean.x, clean.y, detector=defenses.get("ft")())  # type: ignore[arg-type]


# -- what is said of damage


def test_classes_without_an_image_are_warned_of_and_named(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    few = clean[clean.y < 8]
    with pytest.warns(UserWarning, match="2 of 10 classes have no clean image"):
        result = purify(model, few.x, few.y, defense="ft", settings=QUICK, recipe=recipe)
    assert result.report["missing_classes"] == [8, 9]
    verdict = detect(model, few.x, few.y, settings=BRIEF, recipe=recipe)
    assert verdict.report["missing_classes"] == [8, 9]


def test_a_recipe_that_makes_images_strange_to_the_net_is_warned_of(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    strange = replace(recipe, crop=4, flip=True)
    said = r"^moved by up to 4 pixels and mirrored half .* Give a recipe .* crop=0 \(--crop 0\) or flip=False \(--no-flip\)$"
    with pytest.warns(UserWarning, match=said):
        repaired = purify(model, clean.x, clean.y, defense="none", recipe=strange)
    with pytest.warns(UserWarning, match=said):
        verdict = detect(model, clean.x, clean.y, settings=BRIEF, recipe=strange)
    assert "the model was not trained so" in repaired.report["augmentation"] == verdict.report["augmentation"]
    assert "augmentation" not in purify(model, clean.x, clean.y, defense="none", recipe=recipe).report


def test_a_repair_that_breaks_the_net_says_so(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    settings = {"epochs": 1, "batch_size": 5, "lr": 5.0}
    with pytest.warns(UserWarning, match="the repair did damage: accuracy on the clean images fell from"):
        result = purify(model, clean.x, clean.y, defense="ft", settings=settings, recipe=recipe)
    assert result.report["clean_accuracy"]["before"] == pytest.approx(accuracy(model, clean), abs=1e-3)
    assert result.report["clean_accuracy"]["after"] == pytest.approx(accuracy(result.model, clean), abs=1e-3)
    assert "damage" in result.report


def test_a_sound_repair_says_nothing(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    report = purify(model, clean.x, clean.y, defense="ft", settings=QUICK, recipe=recipe).report
    assert not {"damage", "missing_classes", "hardly_right"} & set(report)


def test_a_net_fed_wrongly_is_not_decided_on(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    black = torch.zeros_like(clean.x)
    own = detect(model, black, clean.y, settings={**BRIEF, "threshold": -1000.0}, recipe=recipe)
    assert own.backdoored is True
    verdict = detect(model, black, clean.y, settings=BRIEF, recipe=recipe)
    assert verdict.backdoored is None
    assert verdict.report["undecided"] == own.report["undecided"]
    assert "the net is right on" in verdict.report["undecided"]
    assert "chance is 10.0 %" in verdict.calibration
    assert "hardly_right" in purify(model, black, clean.y, defense="ft", settings=QUICK, recipe=recipe).report


def test_progress_is_told(model: nn.Module, clean: Images, recipe: Recipe) -> None:
    told: list[tuple[str, int, int]] = []
    detect(
        model, clean.x, clean.y, settings={**BRIEF, "draws": 2}, recipe=recipe,
        progress=lambda what, done, total: told.append((what, done, total)),
    )  # fmt: skip
    assert ("draw 1 of 2: repairing", 0, 2) in told
    assert any(what.startswith("draw 2 of 2") for what, _, _ in told)

"""The contract test that every registered method passes, a stranger's too.

Run it by ``mnp-bench check NAME`` or, in pytest::

    from mnp_plugin.testing import check
    def test_contract() -> None:
        check("my-attack")

Each clause is a function whose docstring says what it demands; a broken one raises :class:`ContractError`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from mnp_plugin import contracts
from mnp_plugin.benchmark.stages import poison, poison_candidates, with_assets
from mnp_plugin.contracts import (
    Attack,
    AttackContext,
    Component,
    DefenderView,
    Defense,
    DefenseContext,
    Detector,
    ImageData,
    Net,
    Recipe,
    SampleDetector,
    TrainingSetDefense,
    TrainingView,
)
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.digits import Digits
from mnp_plugin.nets import build_net
from mnp_plugin.nets.small import SmallNet
from mnp_plugin.training.loop import fit


class ContractError(AssertionError):
    """A registered method breaks a clause of its contract."""


def check(name: str, settings: Mapping[str, Any] | None = None, *, device: str = "cpu") -> list[str]:
    """Run every clause on the methods called ``name``, on a few hundred digits and a tiny net; seconds on one core.

    Args:
        name: registered name, in any registry.
        settings: hyper-parameters to use instead of the defaults, to make a slow defense quick; where several methods share
            the name, each takes those it has.
        device: where tensors live. On CUDA, whose sums have no fixed order, what is learned twice under one seed need have
            the same shapes only.

    Returns:
        The clauses that held.

    Raises:
        ContractError: the first clause that does not hold.
        UserError: nothing is registered under ``name``.
    """
    found = [registry.get(name) for registry in contracts.all_registries if name in registry.names()]
    if not found:
        raise UserError(f"nothing is called '{name}'; see mnp-bench list")
    chosen = dict(settings or {})
    for key in chosen:
        if not any(key in _keys(cls) for cls in found):
            raise UserError(f"'{name}' has no setting '{key}'; see mnp-bench describe {name}")
    passed: list[str] = []
    for cls in found:
        method = cls(**{key: value for key, value in chosen.items() if key in _keys(cls)})
        passed += _check_component(method)
        if isinstance(method, Attack):
            passed += _check_attack(method, _small_data(device))
        elif isinstance(method, Defense):
            passed += _check_defense(method, _small_data(device))
        elif isinstance(method, Detector):
            passed += _check_detector(method, _small_data(device))
        elif isinstance(method, SampleDetector):
            passed += _check_sample_detector(method, _small_data(device))
        elif isinstance(method, Net):
            passed += _check_net(method)
    return passed


def _keys(cls: type[Component]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def _demand(condition: bool, clause: str, passed: list[str]) -> None:
    if not condition:
        raise ContractError(clause)
    if clause not in passed:
        passed.append(clause)


def _small_data(device: str) -> ImageData:
    with TemporaryDirectory() as cache:
        data = Digits().load(Path(cache))
    train, test = (part.to(torch.device(device)) for part in (data.train[:400], data.test[:100]))
    return ImageData(train, test, data.classes, data.mean, data.std)


def _context(data: ImageData, seed: int = 0) -> DefenseContext:
    torch.manual_seed(seed)
    device = data.train.x.device
    return DefenseContext(
        device=device,
        generator=torch.Generator(device).manual_seed(seed),
        recipe=Recipe(epochs=2, batch_size=64, crop=1, flip=False),
        fresh_net=lambda: build_net(SmallNet(width=4), data),
    )


def _attack_context(attack: Attack, data: ImageData, seed: int = 0, like: AttackContext | None = None) -> AttackContext:
    """A context that holds what ``attack`` requires, made anew or that of ``like``."""
    clean = None if like is None else like.clean
    if clean is None and attack.requires().clean_net:
        plain = _context(data)
        clean = plain.fresh_net()
        fit(clean, data.train, plain.recipe, plain.generator)
    plain = _context(data, seed)
    own = AttackContext(
        device=plain.device, generator=plain.generator, recipe=plain.recipe, fresh_net=plain.fresh_net, clean=clean
    )
    return with_assets(attack, data.train, own) if like is None else dataclasses.replace(own, assets=like.assets)


def _check_component(method: Component) -> list[str]:
    passed: list[str] = []
    plain = {k: v for k, v in spec.to_plain(method).items() if k not in ("name", "version")}
    json.dumps(plain, allow_nan=False)
    again = spec.build(type(method), spec.Document(plain, {}, "contract"), ())
    _demand(again == method, "settings survive the way to YAML and back", passed)
    _demand(bool((type(method).__doc__ or "").strip()), "the class has a docstring", passed)
    return passed


def _check_attack(attack: Attack, data: ImageData) -> list[str]:
    passed: list[str] = []
    reason = attack.objection(data.shape, len(data.classes))
    if reason:
        return [f"not run: the attack objects to 16x16 images ({reason})"]
    before = copy.deepcopy(vars(attack))
    context = _attack_context(attack, data)
    state = attack.prepare(data.train, context)
    same, other = (attack.prepare(data.train, _attack_context(attack, data, seed)) for seed in (0, 1))
    _demand(all(isinstance(v, Tensor) for v in state.values()), "prepare() returns tensors by name", passed)
    _demand(_again(state, same) and state.keys() == other.keys(), "the trigger is deterministic under a seed", passed)
    x = data.test.pixels()
    kept = x.clone()
    out = attack.stamp(x, state)
    _demand(torch.equal(x, kept), "apply() leaves its input as it is", passed)
    _demand(bool(((out >= 0) & (out <= 1)).all()) and out.shape == x.shape, "triggered pixels lie in [0, 1]", passed)
    _demand(torch.equal(out, attack.stamp(x, state)), "the same image gets the same trigger twice", passed)
    rebuilt = type(attack)(**vars(attack))
    _demand(torch.equal(out, rebuilt.stamp(x, copy.deepcopy(state))), "settings and state rebuild the trigger exactly", passed)
    if attack.has_trigger:
        _demand(not torch.equal(out, x), "the trigger changes the image", passed)
    _demand(vars(attack) == before, "nothing is stored on the attack object", passed)
    hook = attack.training_hook(state, len(data.classes), _attack_context(attack, data, like=context))
    if hook is not None:
        passed += _check_hook(attack, hook, state, data)
    elif attack.has_trigger:
        passed += _check_poison(attack, state, data, context)
    return passed


def _check_hook(attack: Attack, hook: contracts.TrainingHook, state: contracts.State, data: ImageData) -> list[str]:
    passed: list[str] = []
    x, y = data.train.pixels(), data.train.y
    kept_x, kept_y = x.clone(), y.clone()
    model = _context(data).fresh_net().to(x.device).train()
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    new_x, new_y = hook.batch(x, y, model, 0.0)
    _demand(torch.equal(x, kept_x) and torch.equal(y, kept_y), "the training hook leaves its batch as it is", passed)
    fits = new_x.shape[1:] == x.shape[1:] and len(new_x) == len(new_y) >= len(x)
    _demand(fits, "the training hook keeps the images' shape and drops none", passed)
    _demand(bool(torch.isfinite(new_x).all()), "the training hook's pixels are finite", passed)
    _demand(
        _equal(kept, model.state_dict()) and all(p.grad is None for p in model.parameters()) and model.training,
        "the training hook leaves the classifier, its gradients and its mode as they are",
        passed,
    )
    wanted, given = attack.attack_labels(y, len(data.classes)), new_y[: len(y)]
    _demand(bool(((given == y) | (given == wanted)).all()), "the training hook relabels by the attack's rule only", passed)
    learned = {**state, **hook.learned()}
    out = attack.stamp(data.test.pixels(), learned)
    _demand(torch.equal(out, attack.stamp(data.test.pixels(), learned)), "what training teaches goes into the trigger", passed)
    return passed


def _check_poison(attack: Attack, state: contracts.State, data: ImageData, context: AttackContext) -> list[str]:
    passed: list[str] = []
    pool, count = poison_candidates(attack, data.train.y)
    index, cover = pool[:count], pool[count : count + 5] if attack.cover_ratio() else pool[:0]
    poisoned, again = (
        poison(attack, data.train, index, cover, state, len(data.classes), _attack_context(attack, data, like=context))
        for _ in range(2)
    )
    _demand(_again({"x": poisoned.x}, {"x": again.x}), "poisoned images are the same under the same seed", passed)
    rest = torch.ones_like(data.train.y, dtype=torch.bool)
    rest[index] = rest[cover] = False
    _demand(torch.equal(poisoned.x[rest], data.train.x[rest]), "images that were not chosen stay as they are", passed)
    relabelled = torch.zeros_like(rest)
    relabelled[index] = not attack.clean_label
    _demand(torch.equal(poisoned.y[~relabelled], data.train.y[~relabelled]), "no label changes beyond those chosen", passed)
    if attack.clean_label:
        own = bool((data.train.y[index] == attack.targets[0]).all())
        _demand(own, "a clean-label attack alters the target class only", passed)
    return passed


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _again(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether the same seed gave the same; on CUDA shapes alone, see :func:`check`."""
    if any(v.is_cuda for v in a.values()):
        return a.keys() == b.keys() and all(a[k].shape == b[k].shape for k in a)
    return _equal(a, b)


def _view(data: ImageData, model: nn.Module) -> DefenderView:
    return DefenderView(model=model, clean=data.test[:60], validation=data.test[60:80], num_classes=len(data.classes))


def _check_defense(defense: Defense, data: ImageData) -> list[str]:
    passed: list[str] = []
    plain = _context(data)
    victim = plain.fresh_net()
    fit(victim, data.train, plain.recipe, plain.generator)
    weights = {k: v.clone() for k, v in victim.state_dict().items()}

    def context() -> DefenseContext:
        """Those of a suite that trains with progressive resizing, which is no defense's business."""
        if isinstance(defense, TrainingSetDefense):
            return _context(data)  # it trains a net by that recipe
        return dataclasses.replace(_context(data), recipe=dataclasses.replace(plain.recipe, epochs=100, small_epochs=99))

    view = _view(data, victim)
    if isinstance(defense, TrainingSetDefense):
        view = TrainingView(**vars(view), train=data.train)
    first = defense.run(view, context())
    _demand(_equal(weights, victim.state_dict()), "the victim stays as it is", passed)
    _demand(not first.model.training, "the repaired net is in eval mode", passed)
    json.dumps(dict(first.report), allow_nan=False)
    passed.append("the report is plain JSON")
    second = defense.run(view, context())
    _demand(_again(first.model.state_dict(), second.model.state_dict()), "the same seed repairs to the same weights", passed)
    fresh = _context(data).fresh_net().to(data.test.x.device)
    fresh.load_state_dict(first.model.state_dict())
    with torch.no_grad():
        # Not bit for bit: the memory layout of the weights decides the order of sums.
        same = torch.allclose(fresh.eval()(data.test.pixels()), first.model(data.test.pixels()), rtol=1e-3, atol=1e-3)
    _demand(same, "a plain net with the returned weights computes the same", passed)
    for what, listed in (("candidates", first.candidates), ("nets of the path", first.path)):
        if listed is not None:
            for setting, candidate in listed():
                _demand(all(isinstance(v, int | float) for v in setting.values()), f"{what} carry numeric settings", passed)
                _demand(candidate.state_dict().keys() == weights.keys(), f"{what} keep the state_dict keys", passed)
            _demand(_again(second.model.state_dict(), first.model.state_dict()), f"listing {what} changes no result", passed)
    return passed


def _check_detector(detector: Detector, data: ImageData) -> list[str]:
    passed: list[str] = []
    view = _view(data, _context(data).fresh_net().to(data.test.x.device).eval())
    weights = {key: value.clone() for key, value in view.model.state_dict().items()}
    first, second = (detector.run(view, _context(data)) for _ in range(2))
    _demand(_equal(weights, view.model.state_dict()), "the judged net stays as it is", passed)
    same = data.test.x.is_cuda or (first.score == second.score and first.per_class == second.per_class)
    _demand(same, "finite score and evidence, the same under the same seed", passed)
    _demand(first.threshold is None or bool(first.calibration), "a threshold says on what it was calibrated", passed)
    json.dumps(dict(first.report), allow_nan=False)
    passed.append("the report is plain JSON")
    return passed


def _check_sample_detector(detector: SampleDetector, data: ImageData) -> list[str]:
    passed: list[str] = []
    view = _view(data, _context(data).fresh_net().to(data.test.x.device).eval())
    weights = {key: value.clone() for key, value in view.model.state_dict().items()}
    asked = data.train[:120]
    kept = asked.x.clone()
    first, second = (detector.run(view, asked, _context(data)) for _ in range(2))
    _demand(_equal(weights, view.model.state_dict()), "the net stays as it is", passed)
    _demand(torch.equal(kept, asked.x), "the images in question stay as they are", passed)
    _demand(
        _again({"scores": first.scores, "flags": first.flagged}, {"scores": second.scores, "flags": second.flagged}),
        "a finite score and a flag for each image, the same under the same seed",
        passed,
    )
    if detector.questions == "inputs":
        relabelled = contracts.Images(asked.x, (asked.y + 1) % len(data.classes))
        other = detector.run(view, relabelled, _context(data))
        _demand(_again({"scores": first.scores}, {"scores": other.scores}), "labels of inputs are not looked at", passed)
    json.dumps(dict(first.report), allow_nan=False)
    passed.append("the report is plain JSON")
    return passed


def _check_net(net: Net) -> list[str]:
    passed: list[str] = []
    for shape in ((3, 32, 32), (3, 64, 64), (3, 224, 224)):
        try:
            model = net.build(7, shape).eval()
        except UserError:
            continue
        with torch.no_grad():
            out = model(torch.zeros(2, *shape))
        _demand(out.shape == (2, 7), "the net gives one logit per class", passed)
        return passed
    raise ContractError("the net takes none of 32, 64 and 224 pixels")

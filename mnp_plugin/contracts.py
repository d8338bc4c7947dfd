"""The one file a method author imports: base classes, the values they exchange, and the registries.

A method is a frozen, keyword-only dataclass whose fields are its hyper-parameters. What an author overrides is small;
the outer calls, which check shapes, ranges and state, belong to the framework and are final.

    from mnp_plugin.contracts import Attack, attacks, param
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from mnp_plugin import spec
from mnp_plugin.errors import UserError
from mnp_plugin.registry import Registry
from mnp_plugin.spec import param
from mnp_plugin.values import (
    DefenderView,
    GivenVictim,
    ImageData,
    Images,
    MethodError,
    Purified,
    Recipe,
    State,
    Tools,
    Triggered,
    Verdict,
    VictimOffer,
    concat,
    to_bytes,
)

__all__ = [
    "Attack",
    "BatchShare",
    "Component",
    "Dataset",
    "DefenderView",
    "Defense",
    "Detector",
    "GivenVictim",
    "ImageData",
    "Images",
    "MethodError",
    "ModelDetector",
    "Net",
    "Purified",
    "Recipe",
    "SampleDetector",
    "State",
    "Tools",
    "TrainingHook",
    "Triggered",
    "Verdict",
    "VictimOffer",
    "VictimSource",
    "attacks",
    "concat",
    "datasets",
    "defenses",
    "detectors",
    "nets",
    "param",
    "to_bytes",
    "victim_sources",
]


@dataclass(frozen=True, kw_only=True)
class Component(ABC):  # noqa: B024 - its kinds add the abstract methods
    """A registered thing: hyper-parameters as fields, range-checked on construction; no learned state, ever."""

    name: ClassVar[str] = ""
    """Set by registration."""
    version: ClassVar[int] = 1
    """Raise it when behaviour changes: it is part of every fingerprint."""
    paper: ClassVar[str] = ""
    """Source: authors, title, venue and year, arXiv number."""

    def __post_init__(self) -> None:
        spec.check(self)
        self.validate()

    def validate(self) -> None:  # noqa: B027 - optional hook
        """Check what ranges of single fields cannot say; raise :class:`UserError`."""


@dataclass(frozen=True, kw_only=True)
class Dataset(Component):
    """A source of labelled images."""

    @abstractmethod
    def load(self, cache: Path) -> ImageData:
        """Return the data on the CPU; ``cache`` is a folder for downloads and decoded copies.

        Raises:
            UserError: missing folder, empty class, images that do not decode.
        """


@dataclass(frozen=True, kw_only=True)
class Net(Component):
    """A backbone."""

    @abstractmethod
    def build(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """An untrained net that maps float32 [N, C, H, W], already normalised, to logits [N, ``num_classes``].

        Raises:
            UserError: the net cannot take images of ``shape`` (C, H, W).
        """


@dataclass(frozen=True, kw_only=True)
class VictimSource(Component):
    """Victims made elsewhere: a suite's ``victims`` names one and where it lies."""

    path: str = param("", "where the victims lie; ~ allowed")

    @abstractmethod
    def offers(self) -> Sequence[VictimOffer]:
        """The victims at ``path``, in a stable order, checked as far as can be done without loading their data.

        Raises:
            UserError: nothing there, or something that is not what it should be.
        """


class TrainingHook(ABC):
    """What a training-control attack does inside the ordinary training loop; one object per training run."""

    @abstractmethod
    def batch(self, x: Tensor, y: Tensor, model: nn.Module, done: float) -> tuple[Tensor, Tensor]:
        """Change one batch before augmentation.

        Args:
            x: float32 [N, C, H, W] in [0, 1]; stays as it is.
            y: int64 [N]; stays as it is.
            model: the classifier in training; its gradients and running statistics stay as they are.
            done: share of the training that lies behind, in [0, 1).

        Returns:
            Images and labels to train on; gradients may flow through the images to what made them.
        """

    def penalty(self) -> Tensor | None:
        """A scalar to add to this batch's loss, or None."""
        return None

    def stepped(self) -> None:  # noqa: B027 - optional
        """Called after every step of the classifier, its loss's gradients still in place: step own nets here."""

    def learned(self) -> State:
        """What the trigger needs and training has taught; joined to the state from ``prepare``."""
        return {}

    def saved(self) -> State | None:
        """All that :meth:`restore` needs to go on after an interruption; None (the default) if training must start anew."""
        return None

    def restore(self, state: State) -> None:  # noqa: B027 - optional
        """Go on from what :meth:`saved` gave; called before the first batch."""


class BatchShare:
    """How many images of each batch carry the trigger: ``ratio`` of them, rounded down as published.

    Where that is less than one image, one in every so many batches does; one object per training run, as hooks are.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio, self._owed = ratio, 0.0

    def take(self, size: int) -> int:
        """The number for the next batch, of ``size`` images."""
        if self.ratio * size >= 1:
            return int(self.ratio * size)
        self._owed += self.ratio * size
        whole = int(self._owed + 1e-9)  # sums of fractions fall short of whole numbers by rounding
        self._owed -= whole
        return whole

    def saved(self) -> State:
        """What :meth:`restore` needs after an interruption."""
        return {"owed": torch.tensor(self._owed, dtype=torch.float64)}

    def restore(self, state: State) -> None:
        """Go on from what :meth:`saved` gave."""
        self._owed = float(state["owed"])


@dataclass(frozen=True, kw_only=True)
class Attack(Component):
    """A backdoor attack that poisons training data. Override :meth:`apply`, and :meth:`prepare` if it draws something.

    ``poison_ratio`` counts over the whole training set (as BackdoorBench does); for clean-label attacks it counts over
    the target class and is below 1.

    With several targets (all2one only) an image of class y is sent to ``targets[y % len(targets)]``. Clean-label attacks
    take one. A list of one target is the same attack as that target alone.
    """

    clean_label: ClassVar[bool] = False
    """Whether labels stay and only images of the target class are altered."""
    has_trigger: ClassVar[bool] = True
    """False only for the clean model."""
    label_modes: ClassVar[tuple[str, ...]] = ("all2one", "all2all")
    """Target rules this attack defines."""

    target: int | tuple[int, ...] = param(0, "class that triggered images are sent to (all2one); or several, by class", low=0)
    poison_ratio: float = param(0.1, "share of the training images that carry the trigger", above=0, high=1)
    label_mode: Literal["all2one", "all2all"] = param("all2one", "all2one: every image to the target; all2all: class y to y+1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_mode not in self.label_modes:
            raise UserError(
                f"{type(self).__name__}.label_mode must be one of {', '.join(self.label_modes)}, not '{self.label_mode}'"
            )
        if self.clean_label and self.poison_ratio >= 1:
            raise UserError(
                f"{type(self).__name__}.poison_ratio must be below 1: a clean-label attack that alters every image of the "
                "target class leaves the net no clean example of it"
            )
        if not self.targets:
            raise UserError(f"{type(self).__name__}.target must be a class or a list of classes, not an empty list")
        if len(self.targets) == 1:
            object.__setattr__(self, "target", self.targets[0])  # one attack, one fingerprint
        elif self.clean_label:
            raise UserError(f"{type(self).__name__}.target must be one class: labels stay in a clean-label attack")
        elif self.label_mode == "all2all":
            raise UserError(f"{type(self).__name__}.target must be one class (it is not used): all2all sends class y to y+1")

    # -- what an author overrides

    def prepare(self, train: Images, tools: Tools) -> State:
        """Draw or learn, once, what the trigger needs; default: nothing. Tensors by name, saved with the victim."""
        return {}

    @abstractmethod
    def apply(self, x: Tensor, state: State) -> Tensor:
        """Put the trigger on ``x`` (float32 [N, C, H, W] in [0, 1]); deterministic, and ``x`` itself stays as it is."""

    def poison(self, x: Tensor, y: Tensor, state: State, tools: Tools) -> Tensor:
        """How training images are altered where that differs from the test trigger; default: the trigger itself.

        Args:
            x: float32 [N, C, H, W] in [0, 1]; stays as it is.
            y: int64 [N], their true labels.
            state: from :meth:`prepare`.
            tools: random stream and nets.
        """
        return self.apply(x, state)

    def cover_ratio(self) -> float:
        """Share of the training images, disjoint from the poisoned ones, that :meth:`poison` alters under their own label."""
        return 0.0

    def training_hook(self, state: State, num_classes: int, tools: Tools) -> TrainingHook | None:
        """Training-control attacks return what changes each batch; others None (the data are poisoned)."""
        return None

    def objection(self, shape: tuple[int, int, int], num_classes: int) -> str | None:
        """Why this attack cannot treat images of ``shape`` (C, H, W); None if it can. Asked before any training."""
        return None

    # -- what the framework calls

    @property
    def controls_training(self) -> bool:
        """Whether the attack alters batches while training instead of the stored data."""
        return type(self).training_hook is not Attack.training_hook

    @final
    def stamp(self, x: Tensor, state: State) -> Tensor:
        """Apply the trigger, check the result and clip it to [0, 1].

        Raises:
            MethodError: wrong shape or dtype, a value that is not finite, or the input was written to.
        """
        return self._checked(x, "apply", lambda: self.apply(x, state))

    @final
    def stamp_training(self, x: Tensor, y: Tensor, state: State, tools: Tools) -> Tensor:
        """Poison training images, check the result and clip it to [0, 1]; raises as :meth:`stamp`."""
        return self._checked(x, "poison", lambda: self.poison(x, y, state, tools))

    def _checked(self, x: Tensor, what: str, make: Callable[[], Tensor]) -> Tensor:
        before = x._version
        out = make()
        if x._version != before:
            raise MethodError(f"attack '{self.name}' wrote to its input; start {what}() with x = x.clone()")
        if out.shape != x.shape or out.dtype != x.dtype:
            raise MethodError(
                f"attack '{self.name}' turned {x.dtype} {list(x.shape)} into {out.dtype} {list(out.shape)}; keep both"
            )
        if not torch.isfinite(out).all():
            raise MethodError(f"attack '{self.name}' made pixels that are not finite")
        return out.clamp(0, 1)

    @property
    def targets(self) -> tuple[int, ...]:
        """The target classes, one or several."""
        return self.target if isinstance(self.target, tuple) else (self.target,)

    @final
    def attack_labels(self, y: Tensor, num_classes: int) -> Tensor:
        """Labels the attacker wants for images of classes ``y``."""
        return (y + 1) % num_classes if self.label_mode == "all2all" else self._aim(y)

    def _aim(self, y: Tensor) -> Tensor:
        return torch.tensor(self.targets, dtype=y.dtype, device=y.device)[y % len(self.targets)]

    @final
    def counted(self, y: Tensor) -> Tensor:
        """Which test images count for ASR: all that the attacker wants elsewhere; every image for all-to-all. bool [N]."""
        return torch.ones_like(y, dtype=torch.bool) if self.label_mode == "all2all" else y != self._aim(y)

    @final
    def triggered(self, test: Images, state: State, num_classes: int) -> Triggered:
        """The triggered test set: counted images only, in float, without augmentation."""
        index = self.counted(test.y).nonzero().flatten()
        part = test[index]
        chunks = [self.stamp(part[i : i + 1024].pixels(), state) for i in range(0, len(part), 1024)]
        return Triggered(torch.cat(chunks), part.y, self.attack_labels(part.y, num_classes), index)


@dataclass(frozen=True, kw_only=True)
class Defense(Component):
    """A repair of a trained net. Override :meth:`purify`."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Knowledge beyond model and clean budget, printed in the table; none for the ordinary defender."""

    @abstractmethod
    def purify(self, view: DefenderView, tools: Tools) -> Purified:
        """Repair ``view.model`` (the defense owns it) with the clean budget and choose the stopping point blind."""

    def objection(self, model: nn.Module) -> str | None:
        """Why this defense cannot treat nets like ``model``; None if it can. Asked before any training."""
        return None

    @final
    def run(self, view: DefenderView, tools: Tools) -> Purified:
        """Purify a deep copy and check what comes back.

        Raises:
            MethodError: other ``state_dict`` keys or shapes, or weights that are not finite.
            UserError: the defense objects to this net.
        """
        reason = self.objection(view.model)
        if reason:
            raise UserError(f"defense '{self.name}' cannot treat this net: {reason}")
        own = DefenderView(
            model=copy.deepcopy(view.model).requires_grad_(True).eval(),
            clean=view.clean,
            validation=view.validation,
            num_classes=view.num_classes,
            extras={key: view.extras[key] for key in self.needs},
        )
        result = self.purify(own, tools)
        self._check(result.model, view.model)
        result.model.requires_grad_(True).eval()
        return result

    def _check(self, model: nn.Module, original: nn.Module) -> None:
        had, has = original.state_dict(), model.state_dict()
        if model is original:
            raise MethodError(f"defense '{self.name}' gave back the victim itself")
        if list(had) != list(has):
            odd = sorted(set(had) ^ set(has))[:3]
            raise MethodError(f"defense '{self.name}' changed the state_dict keys ({odd}): bake masks into the weights")
        for key, value in has.items():
            if value.shape != had[key].shape:
                raise MethodError(f"defense '{self.name}' changed the shape of {key}")
            if not torch.isfinite(value).all():
                raise MethodError(f"defense '{self.name}' diverged: {key} is not finite; try a smaller learning rate")


@dataclass(frozen=True, kw_only=True)
class Detector(Component):
    """Base of both kinds of detector: extend one of the two below."""


@dataclass(frozen=True, kw_only=True)
class ModelDetector(Detector):
    """Says how backdoored a whole net looks. Override :meth:`inspect`."""

    @abstractmethod
    def inspect(self, view: DefenderView, tools: Tools) -> Verdict:
        """Judge ``view.model`` (the detector owns it) from the clean budget."""

    def objection(self, model: nn.Module) -> str | None:
        """Why this detector cannot judge nets like ``model``; None if it can. Asked before any work."""
        return None

    @final
    def run(self, view: DefenderView, tools: Tools) -> Verdict:
        """Inspect a deep copy and check what comes back.

        Raises:
            MethodError: a score or an evidence that is not finite, or not one evidence per class.
            UserError: the detector objects to this net.
        """
        reason = self.objection(view.model)
        if reason:
            raise UserError(f"detector '{self.name}' cannot judge this net: {reason}")
        verdict = self.inspect(replace(view, model=copy.deepcopy(view.model).eval(), extras={}), tools)
        if len(verdict.per_class) not in (0, view.num_classes):
            raise MethodError(f"detector '{self.name}' gave {len(verdict.per_class)} evidences for {view.num_classes} classes")
        if not all(math.isfinite(value) for value in (verdict.score, *verdict.per_class)):
            raise MethodError(f"detector '{self.name}' gave a score or an evidence that is not finite")
        if verdict.suspected is not None and not 0 <= verdict.suspected < view.num_classes:
            raise MethodError(f"detector '{self.name}' suspects class {verdict.suspected} of {view.num_classes}")
        return verdict


@dataclass(frozen=True, kw_only=True)
class SampleDetector(Detector):
    """Says how triggered single images look to a net. Override :meth:`scores`."""

    @abstractmethod
    def scores(self, view: DefenderView, suspects: Tensor, tools: Tools) -> Tensor:
        """float32 [N] for ``suspects`` (float32 [N, C, H, W] in [0, 1]); grows with the suspicion."""


attacks: Registry[Attack] = Registry("attack", Attack)  # type: ignore[type-abstract]
defenses: Registry[Defense] = Registry("defense", Defense)  # type: ignore[type-abstract]
detectors: Registry[Detector] = Registry("detector", Detector)
datasets: Registry[Dataset] = Registry("dataset", Dataset)  # type: ignore[type-abstract]
nets: Registry[Net] = Registry("net", Net)  # type: ignore[type-abstract]
victim_sources: Registry[VictimSource] = Registry("victim source", VictimSource)  # type: ignore[type-abstract]
registries: tuple[Registry[Any], ...] = (attacks, defenses, detectors, datasets, nets, victim_sources)

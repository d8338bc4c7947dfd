"""A backdoor attack."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from mnp_plugin.core.component import Component
from mnp_plugin.core.context import AttackContext, Requires
from mnp_plugin.core.errors import MethodError, UserError
from mnp_plugin.core.images import Images, State, Triggered
from mnp_plugin.core.params import param
from mnp_plugin.core.training_hook import TrainingHook


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

    def requires(self) -> Requires:
        """What must be made before :meth:`prepare`, which then finds it in its context; default: nothing."""
        return Requires()

    def prepare(self, train: Images, tools: AttackContext) -> State:
        """Draw or learn, once, what the trigger needs; default: nothing. Tensors by name, saved with the victim."""
        return {}

    @abstractmethod
    def apply(self, x: Tensor, state: State) -> Tensor:
        """Put the trigger on ``x`` (float32 [N, C, H, W] in [0, 1]); deterministic, and ``x`` itself stays as it is."""

    def poison(self, x: Tensor, y: Tensor, state: State, tools: AttackContext) -> Tensor:
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

    def training_hook(self, state: State, num_classes: int, tools: AttackContext) -> TrainingHook | None:
        """Training-control attacks return what changes each batch; others None (the data are poisoned)."""
        return None

    @property
    def alters_data(self) -> bool:
        """Whether it alters the training set once, before training, rather than batches while training."""
        return type(self).training_hook is Attack.training_hook

    def objection(self, shape: tuple[int, int, int], num_classes: int) -> str | None:
        """Why this attack cannot treat images of ``shape`` (C, H, W); None if it can. Asked before any training."""
        return None

    # -- what the framework calls

    @final
    def stamp(self, x: Tensor, state: State) -> Tensor:
        """Apply the trigger, check the result and clip it to [0, 1].

        Raises:
            MethodError: wrong shape or dtype, a value that is not finite, or the input was written to.
        """
        return self._checked(x, "apply", lambda: self.apply(x, state))

    @final
    def stamp_training(self, x: Tensor, y: Tensor, state: State, tools: AttackContext) -> Tensor:
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

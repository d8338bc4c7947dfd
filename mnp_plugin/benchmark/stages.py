"""The stages of the route, as functions of values: poison, train, defend. They touch no disk.

Data are moved to the device once, as a whole split, before the first stage.

Seeds come from what a thing is, so neither order nor resumption nor parallelism changes a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mnp_plugin.benchmark.suite import AnyVictim, Cell, Source, VictimSpec
from mnp_plugin.contracts import (
    Attack,
    AttackContext,
    DefenderView,
    DefenseContext,
    GivenVictim,
    ImageData,
    Images,
    Purified,
    State,
    TrainingHook,
    TrainingView,
    Triggered,
    to_bytes,
)
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.split import Split, make_split, redivided
from mnp_plugin.evaluation.cost import Cost
from mnp_plugin.nets import build_net
from mnp_plugin.training.device import place
from mnp_plugin.training.loop import Keeper, Progress, fit


@dataclass(frozen=True, eq=False, kw_only=True)
class Victim:
    """A trained, attacked model; ``state`` is what its trigger needs.

    ``poisoned`` and ``cover`` are the indices of the altered training images, relabelled and not; both are empty where the
    attack alters batches while training.
    """

    model: nn.Module
    state: State
    poisoned: Tensor
    cover: Tensor
    fresh_net: Callable[[], nn.Module]

    def tensors(self) -> dict[str, Tensor]:
        """All but the weights, by name, to be kept."""
        return {**self.state, "poisoned_indices": self.poisoned, "cover_indices": self.cover}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], model: nn.Module, fresh_net: Callable[[], nn.Module]) -> Victim:
        """Undo :meth:`tensors`."""
        state = dict(tensors)
        poisoned, cover = state.pop("poisoned_indices"), state.pop("cover_indices")
        return cls(model=model, state=state, poisoned=poisoned, cover=cover, fresh_net=fresh_net)


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def split_of(victim: AnyVictim, data: ImageData) -> Split:
    """The split that all attacks of this data set and seed share."""
    return make_split(data, victim.budget, spec.seed_of("split", victim.split_identity, victim.seed))


def attack_context(
    identity: object,
    victim: VictimSpec,
    data: ImageData,
    device: torch.device,
    busy: Callable[[str, int, int], None] = silent,
    *,
    clean: nn.Module | None = None,
    assets: Mapping[str, State] | None = None,
) -> AttackContext:
    """What the attack of a victim trained here works with.

    Args:
        identity: what it is for: seeds its own random stream, and torch's global one, which nets draw from.
        victim: gives net and recipe.
        data: of the victim.
        device: where tensors live.
        busy: told what runs.
        clean: the clean net, if the attack requires it.
        assets: the assets it requires, by name.
    """
    return AttackContext(
        device=device,
        generator=stream(identity, device),
        recipe=victim.recipe,
        fresh_net=lambda: build_net(victim.net.component, data),
        busy=busy,
        clean=clean,
        assets=assets or {},
    )


def stream(identity: object, device: torch.device) -> torch.Generator:
    """A random stream on ``device``, seeded by what it is for; also seeds torch's global stream."""
    seed = spec.seed_of(identity)
    torch.manual_seed(seed)
    return torch.Generator(device=device).manual_seed(seed)


def with_assets(attack: Attack, train: Images, context: AttackContext) -> AttackContext:
    """``context`` with the assets that ``attack`` requires, made now from its stream: for an attack outside a benchmark."""
    made = {asset.name: asset.make(train, context) for asset in attack.requires().assets}
    return replace(context, assets={**context.assets, **made})


def poison_candidates(attack: Attack, y: Tensor) -> tuple[Tensor, int]:
    """(indices that may be altered, how many of them are): counted over all images; clean-label over the target class.

    Raises:
        UserError: the ratio comes to no image, or to all images of the target class.
    """
    pool = (y == attack.targets[0]).nonzero().flatten() if attack.clean_label else torch.arange(len(y), device=y.device)
    count = round(attack.poison_ratio * len(pool))
    if attack.has_trigger and count == 0:
        raise UserError(f"attack '{attack.name}': poison_ratio {attack.poison_ratio:g} of {len(pool)} images is none; raise it")
    if attack.clean_label and count >= len(pool):
        raise UserError(
            f"attack '{attack.name}': poison_ratio {attack.poison_ratio:g} leaves no clean image of class {attack.targets[0]}"
        )
    return pool, count


def check(victim: AnyVictim, source: Source) -> None:
    """All that can be known to fail before training, or before measuring a victim from elsewhere; see :func:`check_victim`."""
    if source.spec is not None:
        check_victim(source.spec, source.data)
    else:
        split_of(victim, source.data)
        _check_crop(victim, source.data)


def check_victim(victim: VictimSpec, data: ImageData) -> None:
    """All that can be known to fail before training.

    Raises:
        UserError: target outside the classes, ratio that comes to nothing, sizes that do not fit, budget too large.
    """
    attack = victim.attack.component
    classes = len(data.classes)
    if max(attack.targets) >= classes:
        raise UserError(
            f"attack '{victim.attack.label}': target {max(attack.targets)} is outside the classes 0..{classes - 1} "
            f"of {victim.dataset.label} ({data.classes[0]} ... {data.classes[-1]})"
        )
    reason = attack.objection(data.shape, classes)
    if reason:
        raise UserError(f"attack '{victim.attack.label}' cannot treat {victim.dataset.label}: {reason}")
    split = split_of(victim, data)
    if attack.has_trigger and not bool(attack.counted(split.test.y).any()):
        raise UserError(
            f"attack '{victim.attack.label}': every test image is of the class that the attack sends it to, so ASR cannot be "
            "measured; choose another target"
        )
    pool, count = poison_candidates(attack, split.train.y)
    cover = round(attack.cover_ratio() * len(pool))
    if count + cover > len(pool) or (attack.cover_ratio() and not cover):
        raise UserError(
            f"attack '{victim.attack.label}': {count} poisoned and {cover} cover images of {len(pool)}; "
            "there must be some of both, and no image can be both"
        )
    _check_crop(victim, data)
    build_net(victim.net.component, data)


def _check_crop(victim: AnyVictim, data: ImageData) -> None:
    if victim.recipe.crop >= min(data.shape[1:]):
        raise UserError(f"recipe.crop {victim.recipe.crop} must be smaller than the images ({data.shape[1]}x{data.shape[2]})")


def train_victim(
    victim: VictimSpec,
    data: ImageData,
    split: Split,
    tools: AttackContext,
    progress: Progress | None = None,
    keep: Keeper | None = None,
) -> Victim:
    """Poison the training set and train on it, or let the attack alter each batch while training."""
    made = prepared(victim, data, split, tools)
    model = tools.fresh_net()
    fit(model, made.train, victim.recipe, tools.generator, hook=made.hook, progress=progress, keep=keep)
    state = made.state if made.hook is None else {**made.state, **made.hook.learned()}
    return Victim(model=model, state=state, poisoned=made.poisoned, cover=made.cover, fresh_net=tools.fresh_net)


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """An attack ready for training: its state, the training set (poisoned, unless a hook alters batches) and what is altered."""

    state: State
    train: Images
    poisoned: Tensor
    cover: Tensor
    hook: TrainingHook | None


def prepared(victim: VictimSpec, data: ImageData, split: Split, tools: AttackContext) -> Prepared:
    """Prepare the attack of ``victim`` and poison the training set; the same again under the same stream."""
    attack = victim.attack.component
    train, classes = split.train, len(data.classes)
    state = attack.prepare(train, tools)
    hook = attack.training_hook(state, classes, tools)
    pool, count = poison_candidates(attack, train.y)
    poisoned = torch.empty(0, dtype=torch.int64, device=tools.device)
    cover = poisoned
    if hook is None and count:
        order = pool[torch.randperm(len(pool), generator=tools.generator, device=tools.device)]
        poisoned = order[:count].sort().values
        cover = order[count : count + round(attack.cover_ratio() * len(pool))].sort().values
        train = poison(attack, train, poisoned, cover, state, classes, tools)
    return Prepared(state=state, train=train, poisoned=poisoned, cover=cover, hook=hook)


def take_given(given: GivenVictim, device: torch.device) -> tuple[Victim, Triggered]:
    """A victim made elsewhere and its triggered test set, on ``device``; nothing is known of its poisoned images."""
    model = place(given.model, device, given.data.test[:2].pixels()).eval()
    none = torch.empty(0, dtype=torch.int64, device=device)
    t = given.triggered
    triggered = Triggered(t.x.to(device), t.y_true.to(device), t.y_attack.to(device), t.index.to(device))
    return Victim(model=model, state={}, poisoned=none, cover=none, fresh_net=given.fresh_net), triggered


def poison(
    attack: Attack, train: Images, index: Tensor, cover: Tensor, state: State, num_classes: int, tools: AttackContext
) -> Images:
    """A copy of ``train``: images ``index`` and ``cover`` are altered and rounded to 8 bit, labels of ``index`` relabelled."""
    x, y = train.x.clone(), train.y.clone()
    for part in [*index.split(4096), *cover.split(4096)]:  # type: ignore[no-untyped-call]
        if not len(part):
            continue
        x[part] = to_bytes(attack.stamp_training(train.x[part].float() / 255, train.y[part], state, tools))
    if not attack.clean_label:
        y[index] = attack.attack_labels(y[index], num_classes)
    return Images(x, y)


def triggered_test(victim: VictimSpec, state: State, split: Split, num_classes: int) -> Triggered | None:
    """The triggered test set; None for the clean model."""
    attack = victim.attack.component
    if not attack.has_trigger:
        return None
    return attack.triggered(split.test, state, num_classes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a defense did and cost."""

    purified: Purified
    seconds: float
    peak_mb: float


def budget_of(cell: Cell, split: Split) -> Split:
    """The victim's split, its clean budget divided as the cell's draw asks for."""
    if not cell.draw:
        return split
    seed = spec.seed_of("draw", cell.victim.split_identity, cell.victim.seed, cell.draw)
    return redivided(split, cell.victim.budget.validation, seed)


def defend(
    cell: Cell,
    victim: Victim,
    data: ImageData,
    split: Split,
    device: torch.device,
    busy: Callable[[str, int, int], None] = silent,
    train: Images | None = None,
) -> Outcome:
    """Run the defense of ``cell`` on a copy of the victim, timed. It sees the model and the clean budget, nothing else; only a
    :class:`~mnp_plugin.contracts.TrainingSetDefense` is given ``train`` as well, the training set as the attacker left it.
    """
    context = DefenseContext(
        device=device,
        generator=stream(["cell", cell.plain()], device),
        recipe=cell.victim.recipe,
        fresh_net=victim.fresh_net,
        busy=busy,
    )
    split = budget_of(cell, split)
    view = DefenderView(
        model=victim.model,  # the defense is given a copy
        clean=split.clean,
        validation=split.validation,
        num_classes=len(data.classes),
    )
    if train is not None:
        view = TrainingView(**vars(view), train=train)
    cost = Cost(device)
    purified = cell.defense.component.run(view, context, cost)
    return Outcome(purified=purified, seconds=cost.seconds, peak_mb=cost.mib)

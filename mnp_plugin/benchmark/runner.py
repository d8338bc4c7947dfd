"""The loop over victims and their cells; the only place where computation meets the disk."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

import mnp_plugin
from mnp_plugin.benchmark import stages
from mnp_plugin.benchmark.stages import Victim
from mnp_plugin.benchmark.store import Store
from mnp_plugin.benchmark.suite import AnyVictim, Cell, GivenSpec, Suite, VictimSpec
from mnp_plugin.contracts import GivenVictim, ImageData, State, Tools, Triggered
from mnp_plugin.core.errors import UserError, did_you_mean
from mnp_plugin.core.params import fingerprint
from mnp_plugin.data.split import Split
from mnp_plugin.evaluation import scores as metrics
from mnp_plugin.nets import build_net
from mnp_plugin.report.records import Record, Scores, to_json
from mnp_plugin.training.device import place, uses_bfloat16


class Observer(Protocol):
    """Told what happens; the command line draws it."""

    def plan(self, total: int, done: int) -> None:
        """``done`` of ``total`` cells have their record already."""

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """What runs now, and how far it is (0 of 0 where unknown)."""

    def finished(self, record: Record) -> None:
        """A record was written."""


class Silent:
    """An observer that says nothing."""

    def plan(self, total: int, done: int) -> None:
        """Nothing."""

    def busy(self, what: str, step: int = 0, steps: int = 0) -> None:
        """Nothing."""

    def finished(self, record: Record) -> None:
        """Nothing."""


@dataclass
class Summary:
    """What a run did."""

    ran: int = 0
    skipped: int = 0
    failed: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """A victim with what its cells are measured against.

    ``facts`` stand in every record of the victim: its scores, its training time, the stealth of its trigger.
    """

    victim: Victim
    triggered: Triggered | None
    facts: dict[str, Any]


class Partial:
    """Keeps a victim's training now and then, and the seconds it took before it was interrupted."""

    EVERY = 20.0
    """Least seconds between two writes, so that short trainings write nothing."""

    def __init__(self, store: Store, victim: VictimSpec) -> None:
        self.store, self.victim, self.seconds = store, victim, 0.0
        self._start = self._last = time.perf_counter()

    def load(self) -> State | None:
        """What an interrupted training left."""
        state = self.store.load_partial(self.victim)
        if state is not None:
            self.seconds = float(state.pop("seconds"))
        return state

    def save(self, state: State) -> None:
        """Keep ``state`` if the last time is long enough ago."""
        now = time.perf_counter()
        if now - self._last >= self.EVERY:
            self._last = now
            self.store.save_partial(self.victim, {**state, "seconds": torch.tensor(self.seconds + now - self._start)})


class Engine(Protocol):
    """Where the victims of a run are worked on; see :mod:`mnp_plugin.benchmark.engines`."""

    def __call__(self, runner: Runner, victims: Sequence[AnyVictim]) -> Iterable[list[Record]]:
        """The records of each victim, in any order."""


def inline(runner: Runner, victims: Sequence[AnyVictim]) -> Iterable[list[Record]]:
    """One victim after the other, in this process."""
    return map(runner.run_victim, victims)


class Runner:
    """Runs a suite against a store.

    Args:
        suite: resolved suite.
        store: where victims and records are kept.
        device: where tensors live.
        observer: told what happens.
        attacks: labels of the attacks to run now; None is all of the suite.
        defenses: labels of the defenses to run now; None is all of the suite.

    Raises:
        UserError: a label that the suite does not have.
    """

    def __init__(
        self,
        suite: Suite,
        store: Store,
        device: torch.device,
        observer: Observer | None = None,
        *,
        attacks: Collection[str] | None = None,
        defenses: Collection[str] | None = None,
    ) -> None:
        self.suite, self.store, self.device = suite, store, device
        self.attacks, self.defenses = attacks, defenses
        for kind, asked, known in (
            ("attack", attacks, dict.fromkeys(v.attack.label for v in suite.victims)),
            ("defense", defenses, dict.fromkeys(d.label for d in suite.defenses)),
        ):
            for label in asked or ():
                if label not in known:
                    raise UserError(f"suite '{suite.name}' has no {kind} '{label}'.{did_you_mean(label, list(known))}")
        self.cells = [
            cell
            for cell in suite.cells()
            if (attacks is None or cell.victim.attack.label in attacks) and (defenses is None or cell.defense.label in defenses)
        ]
        self.observer: Observer = observer or Silent()
        self._data: dict[str, ImageData] = {}
        self._given: tuple[str, GivenVictim] | None = None

    def pending(self) -> dict[str, list[Cell]]:
        """Cells without a whole record of success, by victim fingerprint, in the order of the suite."""
        waiting: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if self._is_pending(cell):
                waiting.setdefault(cell.victim.fingerprint, []).append(cell)
        return waiting

    def _is_pending(self, cell: Cell) -> bool:
        record = self.store.load_record(self.suite.name, cell)
        return record is None or record.status == "failed"

    def check(self) -> None:
        """Everything that can be known to be wrong before training.

        Raises:
            UserError: data that do not load, a target outside the classes, a defense that cannot treat the net, ...
        """
        for victim in self.suite.victims:
            data = self._load(victim)
            if isinstance(victim, GivenSpec):
                stages.check_given(victim, data)
            else:
                stages.check_victim(victim, data)
        for entry in self.suite.defenses:
            if needs := entry.component.needs:
                raise UserError(f"defense '{entry.label}' needs {', '.join(needs)}, which this benchmark does not grant")
        for victim in {v.net.label: v for v in self.suite.victims}.values():  # one of each net
            model = self._fresh_net(victim)()
            for entry in self.suite.defenses:
                if reason := entry.component.objection(model):
                    raise UserError(f"defense '{entry.label}' cannot treat the net '{victim.net.label}': {reason}")

    def run(self, engine: Engine = inline) -> Summary:
        """Run every pending cell; a failing one becomes a record with its reason and stops nothing else."""
        waiting = self.pending()
        total, left = len(self.cells), sum(map(len, waiting.values()))
        summary = Summary(skipped=total - left)
        self.observer.plan(total, total - left)
        if waiting:
            self.observer.busy("checking data and nets")
            self.check()
        self._relabel()
        self.store.save_plan(self.suite)
        for records in engine(self, [v for v in self.suite.victims if v.fingerprint in waiting]):
            summary.ran += len(records)
            summary.failed += [r for r in records if r.status == "failed"]
        return summary

    def _relabel(self) -> None:
        """Bring what the suite says and no number depends on (gate, labels) up to date in the records that are kept."""
        for cell in self.suite.cells():
            record = self.store.load_record(self.suite.name, cell)
            if record is not None:
                now = replace(record, gate=self.suite.gate.asr, dataset=cell.victim.dataset.label, net=cell.victim.net.label)
                if now != record:
                    self.store.save_record(self.suite.name, cell, now)

    def _load(self, victim: AnyVictim) -> ImageData:
        if isinstance(victim, GivenSpec):
            return self._take(victim).data
        key = str(victim.dataset.plain())
        if key not in self._data:
            self._data[key] = victim.dataset.component.load(self.store.cache)
        return self._data[key]

    def _take(self, victim: GivenSpec) -> GivenVictim:
        """A victim made elsewhere; the last one is kept."""
        key = str(victim.offer.identity)
        if self._given is None or self._given[0] != key:
            self._given = key, victim.offer.load(self.store.cache)
        return self._given[1]

    def _fresh_net(self, victim: AnyVictim) -> Callable[[], torch.nn.Module]:
        if isinstance(victim, GivenSpec):
            return self._take(victim).fresh_net
        net, data = victim.net.component, self._load(victim)
        return lambda: build_net(net, data)

    def run_victim(self, spec: AnyVictim) -> list[Record]:
        """Run the pending cells of one victim of the suite."""
        cells = [c for c in self.cells if c.victim.fingerprint == spec.fingerprint and self._is_pending(c)]
        data = self._load(spec)
        split = stages.split_of(spec, data).to(self.device)
        records = []
        try:
            scene = self._measured(spec, split) if isinstance(spec, GivenSpec) else self.scene(spec, data, split)
        except Exception as error:
            for cell in cells:
                failed = self._record(cell, split, status="failed", reason=f"victim: {_reason(error)}")
                records.append(self._save(cell, failed))
            return records
        for cell in cells:
            self.observer.busy(f"{spec.title}: {cell.defense.label}")
            try:
                record = self._record(cell, split, status="ok", **scene.facts, **self._defend(cell, scene, data, split))
                to_json(record)  # a report that is not plain JSON is the defense's failure, not the run's
            except Exception as error:
                record = self._record(cell, split, status="failed", reason=_reason(error), **scene.facts)
            records.append(self._save(cell, record))
        return records

    def _measured(self, spec: GivenSpec, split: Split) -> Scene:
        """Measure a victim made elsewhere. Its triggered pictures are 8 bit already."""
        self.observer.busy(f"{spec.title}: measuring")
        victim, triggered = stages.take_given(self._take(spec), self.device)
        before = stages.measure(victim.model, split.test, triggered)
        stealth = metrics.stealth(split.test.x[triggered.index].float() / 255, triggered.x)
        return Scene(victim, triggered, {"before": before, "asr_8bit": before.asr, "stealth": stealth})

    def scene(self, spec: VictimSpec, data: ImageData, split: Split) -> Scene:
        """Load a victim from the cache, or train, measure and keep it; no other process does so meanwhile.

        Args:
            spec: any victim, of this suite or not.
            data: what its data set holds.
            split: of those data, on the runner's device.
        """
        return self.store.once(
            spec.fingerprint,
            load=lambda: self._kept(spec, data, split),
            make=lambda: self._made(spec, data, split),
            waiting=lambda: self.observer.busy(f"{spec.title}: another process trains it"),
        )

    def _kept(self, spec: VictimSpec, data: ImageData, split: Split) -> Scene | None:
        loaded = self.store.load_victim(spec)
        if loaded is None:
            return None
        weights, tensors, facts = loaded
        fresh_net = self._fresh_net(spec)
        model = fresh_net()
        model.load_state_dict(weights)
        place(model, self.device).eval()
        victim = Victim.from_tensors({k: v.to(self.device) for k, v in tensors.items()}, model, fresh_net)
        triggered = stages.triggered_test(spec, victim.state, split, len(data.classes))
        return Scene(victim, triggered, {**facts, "before": Scores(**facts["before"])})

    def _made(self, spec: VictimSpec, data: ImageData, split: Split) -> Scene:
        def progress(done: int, epochs: int, loss: float) -> None:
            self.observer.busy(f"{spec.title}: training, loss {loss:.3f}", done, epochs)

        self.observer.busy(f"{spec.title}: training", 0, spec.recipe.epochs)
        start = time.perf_counter()
        tools = self.tools_for(["victim", spec.plain()], spec, data, split)
        partial = Partial(self.store, spec)
        victim = stages.train_victim(spec, data, split, tools, progress, partial)
        seconds = round(partial.seconds + time.perf_counter() - start, 2)
        triggered = stages.triggered_test(spec, victim.state, split, len(data.classes))
        before = stages.measure(victim.model, split.test, triggered)
        facts: dict[str, Any] = {"before": vars(before), "victim_seconds": seconds}
        if triggered is not None:
            facts["asr_8bit"] = stages.asr_in_bytes(victim.model, triggered)
            facts["stealth"] = metrics.stealth(split.test.x[triggered.index].float() / 255, triggered.x)
        self.store.save_victim(spec, victim.model.state_dict(), victim.tensors(), facts)
        if triggered is not None:
            self.store.save_pictures(spec, stages.pictures(split.test, triggered))
        return Scene(victim, triggered, {**facts, "before": before})

    def tools_for(self, identity: object, spec: VictimSpec, data: ImageData, split: Split) -> Tools:
        """Tools that bring the clean net and other things attacks need from the cache, or make and keep them.

        Making them happens beside the random streams of who asks, so that a cache changes no number.

        Args:
            identity: what the tools are for; seeds their random stream.
            spec: the victim.
            data: what its data set holds.
            split: of those data, on the runner's device.
        """

        def busy(what: str, done: int, total: int) -> None:
            self.observer.busy(f"{spec.title}: {what}", done, total)

        def clean_net() -> torch.nn.Module:
            with torch.random.fork_rng(devices=_cuda(self.device)):
                return self.scene(stages.clean_twin(spec), data, split).victim.model

        def asset(name: str, settings: Mapping[str, Any], make: Callable[[Tools], State]) -> State:
            about = {"asset": name, "settings": dict(settings), **stages.clean_twin(spec).plain()}

            def made() -> State:
                busy(name, 0, 0)
                with torch.random.fork_rng(devices=_cuda(self.device)):
                    state = make(self.tools_for(about, spec, data, split))
                self.store.save_asset(about, state)
                return state

            kept = self.store.once(
                fingerprint(about),
                load=lambda: self.store.load_asset(about),
                make=made,
                waiting=lambda: busy(f"another process makes {name}", 0, 0),
            )
            return {key: value.to(self.device) for key, value in kept.items()}

        return replace(stages.tools_for(identity, spec, data, self.device), clean_net=clean_net, asset=asset, busy=busy)

    def _defend(self, cell: Cell, scene: Scene, data: ImageData, split: Split) -> dict[str, Any]:
        outcome = stages.defend(cell, scene.victim, data, split, self.device)
        oracle = stages.oracle_choice(outcome.purified, scene.facts["before"], split.test, scene.triggered)
        return {
            "after": stages.measure(outcome.purified.model, split.test, scene.triggered),
            "oracle": oracle[0] if oracle else None,
            "oracle_setting": oracle[1] if oracle else None,
            "seconds": round(outcome.seconds, 2),
            "peak_mb": round(outcome.peak_mb, 1),
            "prune": dict(outcome.purified.report),
        }

    def _record(self, cell: Cell, split: Split, **facts: Any) -> Record:
        return Record(
            cell=cell.fingerprint,
            suite=self.suite.name,
            dataset=cell.victim.dataset.label,
            net=cell.victim.net.label,
            attack=cell.victim.attack.label,
            defense=cell.defense.label,
            seed=cell.victim.seed,
            poison_ratio=_poison_ratio(cell.victim),
            clean_images=split.budget_size,
            clean_source=cell.victim.budget.source,
            knowledge=list(cell.defense.component.needs),
            gate=self.suite.gate.asr,
            spec=cell.plain(),
            versions=versions(),
            hardware=hardware(self.device, cell.victim.recipe.precision),
            **facts,
        )

    def _save(self, cell: Cell, record: Record) -> Record:
        self.store.save_record(self.suite.name, cell, record)
        self.observer.finished(record)
        return record


def _poison_ratio(victim: AnyVictim) -> float | None:
    if isinstance(victim, GivenSpec):
        return victim.offer.poison_ratio
    return victim.attack.component.poison_ratio if victim.attack.component.has_trigger else None


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _reason(error: Exception) -> str:
    """One line: kind, message, and the last place in the code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def versions() -> dict[str, str]:
    """Versions that a number may depend on."""
    return {
        "mnp_plugin": mnp_plugin.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
    }


def hardware(device: torch.device, precision: str) -> dict[str, Any]:
    """Where a number was made."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if uses_bfloat16(precision, device) else "float32",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""BackdoorBench's ``record/`` folder as a source of victims: ``victims: {backdoorbench: PATH}`` in a suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from mnp_plugin.contracts import GivenVictim, ImageData, VictimOffer, VictimSource, param, victim_sources
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.paths import from_home
from mnp_plugin.integrations.backdoorbench.clean_data import load_clean
from mnp_plugin.integrations.backdoorbench.record import FILE, read_record


@victim_sources.register("backdoorbench")
@dataclass(frozen=True, kw_only=True)
class BackdoorBenchVictims(VictimSource):
    """Victims that BackdoorBench trained: one ``record/<name>/`` folder, or a folder of such folders.

    Each keeps the name of its folder in tables. Its net, triggered test pictures and target rule come from the record, its
    clean images from where BackdoorBench would look for them. Nothing in a record is unpickled, no path in it is followed
    out of it.
    """

    paper = "Wu et al., BackdoorBench: A Comprehensive Benchmark of Backdoor Learning, NeurIPS 2022, arXiv 2206.12654"

    data: str = param("", "folder of the clean data; empty: where the record says, beside record/")

    def offers(self) -> Sequence[VictimOffer]:
        try:
            root = from_home(self.path)
            there = bool(self.path) and root.is_dir()
        except (OSError, RuntimeError, ValueError):  # too long for a name, a home that is not there, a NUL
            there = False
        if not there:
            raise UserError(f"no folder '{self.path[:200]}'; give BackdoorBench's record/ folder, or one record in it")
        if (root / FILE).exists():
            return [self._offer(root)]
        folders = sorted(d for d in root.iterdir() if (d / FILE).exists())
        if not folders:
            raise UserError(f"{root} holds no record of BackdoorBench: neither it nor a folder in it has an {FILE}")
        return [self._offer(folder) for folder in folders]

    def _offer(self, folder: Path) -> VictimOffer:
        record = read_record(folder)
        label = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in folder.resolve().name)
        identity = {
            "content": record.digest(),
            "dataset": record.data,
            "net": record.net,
            "target": record.target_rule,
        }
        return VictimOffer(
            label=label,
            dataset=record.data,
            net=record.net,
            poison_ratio=record.poison_ratio,
            identity=identity,
            load=partial(load_victim, folder, self.data),
        )


def load_victim(folder: Path, data: str, cache: Path) -> GivenVictim:
    """The victim in ``folder``; clean data from ``data``, or from where the record says. ``cache`` is not used.

    Raises:
        UserError: missing data, pictures or weights that do not fit.
    """
    record = read_record(folder)
    place = from_home(data) if data else record.data_folder()
    clean = _loaded(record.data, place.resolve())
    return GivenVictim(data=clean, model=record.model(), fresh_net=record.fresh_net, triggered=record.triggered(clean.test))


@lru_cache(maxsize=1)
def _loaded(name: str, place: Path) -> ImageData:
    return load_clean(name, place)

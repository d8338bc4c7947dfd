"""Published figures beside ours: a copy of BackdoorBench's leaderboard, and the table that shows both. Imports no torch.

Published figures were measured elsewhere, on other victims; they are shown beside ours and never averaged with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mnp_plugin.core.errors import UserError
from mnp_plugin.report.leaderboard import spread_cell
from mnp_plugin.report.markdown import escape, lines_of
from mnp_plugin.report.summary import what_varies_in_cells

OWN = Path("published", "backdoorbench.csv")
"""In the folder of a suite: figures that it is always shown with."""

COLUMNS = ("dataset", "poison_ratio", "model", "attack", "defense", "acc", "asr", "ra")
"""Columns of the file; ACC, ASR and RA in percent, empty where nothing was published."""

ATTACKS = {
    "BadNet": "badnets", "Blended": "blended", "LC": "lc", "SIG": "sig", "LF": "lf", "SSBA": "ssba", "WaNet": "wanet",
    "InputAware": "input_aware", "BPP": "bpp", "TrojanNN": "trojannn",
}  # fmt: skip
DEFENSES = {
    "No Defense": "none", "FT": "ft", "FP": "fp", "NAD": "nad", "ANP": "anp", "CLP": "clp", "i-BAU": "i-bau", "NC": "nc",
    "ABL": "abl", "AC": "ac", "SS": "spectral", "D-BR": "d-br", "DDE": "ep", "MBNS": "bnp",
}  # fmt: skip
MODELS = {
    "PreActResNet-18": "preactresnet18", "VGG19_BN": "vgg19-bn", "ViT_b_16": "vit_b_16", "ConvNext_tiny": "convnext_tiny",
}  # fmt: skip
DATASETS = {"tiny": "tinyimagenet"}
"""Their names -> ours; what is not listed keeps its name."""

CLASSES = {"cifar10": 10, "cifar100": 100, "tinyimagenet": 200}
"""Of data sets with as many images in each class. Their ratio of a clean-label attack is a share of all images, ours one of the
target class."""


def read_published(path: Path) -> pd.DataFrame:
    """A leaderboard file, checked.

    Raises:
        UserError: no such file, other columns, a rate that is no percentage, or a cell that stands twice.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; mnp-bench bridge import-leaderboard CSV writes one")
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path} is no csv table: {error}") from None
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{path}: the columns must be {','.join(COLUMNS)}, not {','.join(map(str, table.columns))}")
    for column in ("poison_ratio", "acc", "asr", "ra"):
        top = 1 if column == "poison_ratio" else 100
        numbers = pd.to_numeric(table[column], errors="coerce")
        wrong = table[column].notna() & ~(numbers.between(0, top))
        if wrong.any():
            line = int(wrong.to_numpy().argmax()) + 2
            raise UserError(f"{path}, line {line}: {column} must lie in 0..{top}, not {table[column].iloc[line - 2]!r}")
        table[column] = numbers
    for column in COLUMNS[:5]:
        if table[column].isna().any():
            line = int(table[column].isna().to_numpy().argmax()) + 2
            raise UserError(f"{path}, line {line}: {column} is empty")
    twice = table.duplicated(list(COLUMNS[:5]))
    if twice.any():
        raise UserError(f"{path}, line {int(twice.to_numpy().argmax()) + 2}: this cell stands twice; remove one")
    return table


def matched(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``ours`` (the leaderboard) that were also published, with ``acc_published``, ``asr_published`` and
    ``ra_published`` in percent, and ``net_published``.

    Cells match by data set, net, attack, defense and poison ratio. A file that holds a single net of a data set is set beside
    any net, which :func:`differences` says. Published ANP chose its threshold by test ASR, so it is set beside our oracle row
    where there is one.
    """
    theirs = published[published["acc"].notna()].replace(
        {"dataset": DATASETS, "model": MODELS, "attack": ATTACKS, "defense": DEFENSES}
    )
    nets = {str(dataset): sorted(set(part)) for dataset, part in theirs.groupby("dataset")["model"]}
    found = {
        (r["dataset"], r["model"], r["attack"], f"{r['poison_ratio']:g}", r["defense"]): r for r in theirs.to_dict("records")
    }

    def key(row: dict[Any, Any]) -> tuple[Any, ...]:
        of = nets.get(_dataset(row), [])
        net = of[0] if len(of) == 1 else _net(row)
        return _dataset(row), net, _attack(str(row["attack"])), _their_ratio(row), row["defense"]

    rows = ours.to_dict("records")
    keys = [key(row) for row in rows]
    chosen_by_asr = {k for k, row in zip(keys, rows, strict=True) if k[-1] == "anp" and row.get("selection") == "oracle"}
    shown = [k in found and (k not in chosen_by_asr or row["selection"] == "oracle") for k, row in zip(keys, rows, strict=True)]
    cells = [found[k] for k, is_shown in zip(keys, shown, strict=True) if is_shown]
    figures = {f"{score}_published": [cell[score] for cell in cells] for score in ("acc", "asr", "ra")}
    return ours[shown].assign(**figures, net_published=[cell["model"] for cell in cells])


def differences(found: pd.DataFrame) -> str:
    """What else than the seeds differs between both sides of :func:`matched`, in sentences."""
    said = (
        "Published: BackdoorBench's leaderboard, of other victims and seeds, with 5 % clean images, and for ANP a threshold "
        "chosen by test ASR."
    )
    nets = sorted({(row["net_published"], _net(row)) for row in found.to_dict("records") if row["net_published"] != _net(row)})
    others = " and ".join(f"{theirs} there, {ours} here" for theirs, ours in nets)
    return f"{said} Another net: {others}; compare the order of defenses, not single figures." if nets else said


def beside(ours: pd.DataFrame, published: pd.DataFrame) -> list[str]:
    """Markdown lines: every row that :func:`matched` gives; a notice where there is none.

    Args:
        ours: the leaderboard, as :func:`~mnp_plugin.report.markdown.in_markdown` gives it.
        published: figures from elsewhere.
    """
    found = matched(ours, published)
    found["net_published"] = found["net_published"].map(escape)
    lines = ["## Published beside here", ""]
    if found.empty:
        return [*lines, "No cell of this suite (data set, net, attack, poison ratio and defense alike) was published.", ""]
    head = ["dataset, net", "attack", "defense", "published", "here", "here, selection", "here, flag"]
    rows = []
    for row in found.to_dict("records"):
        cells = [f"{row['dataset']}, {_net(row)}", f"{row['attack']} {_ratio(row)}", row["defense"], _rates(row, "_published")]
        rows.append([*map(str, cells), _rates(row), row["selection"], row["flag"]])
    lines += [f"{differences(found)} Here: this suite. Percent, ACC / ASR / RA.", "", *lines_of(head, rows)]
    if said := what_varies_in_cells(found, ("acc", "asr", "ra")):
        lines += ["", said]
    return [*lines, ""]


def _dataset(row: dict[Any, Any]) -> str:
    return DATASETS.get(str(row["dataset"]), str(row["dataset"]))


def _net(row: dict[Any, Any]) -> str:
    return str(row["net"]).replace("vgg19_bn", "vgg19-bn")


def _ratio(row: dict[Any, Any]) -> str:
    return "" if pd.isna(row["poison_ratio"]) else f"{row['poison_ratio']:g}"


def _their_ratio(row: dict[Any, Any]) -> str:
    """The poison ratio as they count it; a record of theirs, such as ``sig_0_05``, has it already."""
    if row["attack"] not in ("lc", "sig") or pd.isna(row["poison_ratio"]):
        return _ratio(row)
    classes = CLASSES.get(_dataset(row))
    return f"{row['poison_ratio'] / classes:g}" if classes else ""


def _attack(label: str) -> str:
    """The attack behind a label: a record of BackdoorBench is usually called after it, as in ``badnet_0_1``."""
    known = {name.lower(): ours for name, ours in ATTACKS.items()}
    return known.get(label.lower().split("_0")[0], label)


def _rates(row: dict[Any, Any], which: str = "") -> str:
    return " / ".join(spread_cell(row[f"{key}{which}"], None if which else row[f"{key}_std"]) for key in ("acc", "asr", "ra"))

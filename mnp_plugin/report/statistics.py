"""``statistics.md`` and what the page says of chance: intervals, ranks, comparisons, and where n is too small to say anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from mnp_plugin.report.leaderboard import spread_cell
from mnp_plugin.report.markdown import lines_of
from mnp_plugin.report.paired import LEAST, Comparison, comparisons
from mnp_plugin.report.ranks import Ranking, attack_label, ranking
from mnp_plugin.report.spread import FEW, Spread, over_attacks
from mnp_plugin.report.summary import summarise, what_varies

ENOUGH = 10
"""Up to this many attacks the chi-square of Friedman's test is a rough approximation (Demšar 2006)."""


@dataclass(frozen=True)
class Overall:
    """One defense over all attacks that took.

    Args:
        row: its row of :func:`~mnp_plugin.report.summary.summarise`.
        spreads: by score (``acc``, ``asr``, ``ra``, ``der``); None with too few attacks.
        worst: by score (``asr``, ``der``): (value, attack).
    """

    row: dict[Any, Any]
    spreads: dict[str, Spread | None]
    worst: dict[str, tuple[float, str]]


@dataclass(frozen=True)
class Statistics:
    """One data set, net and number of clean images; ``varies`` says what the ± of its means is."""

    dataset: str
    net: str
    clean_images: int
    overall: list[Overall]
    ranking: Ranking | None
    comparisons: list[Comparison]
    cautions: list[str]
    varies: str


def statistics(table: pd.DataFrame, runs: pd.DataFrame | None = None) -> list[Statistics]:
    """Statistics of every data set, net and number of clean images in a leaderboard; with single ``runs``, their spread, too."""
    found = []
    for key, part in table.groupby(["dataset", "net", "clean_images"], sort=True):
        dataset, net, images = cast("tuple[str, str, int]", key)
        ranks, pairs = ranking(part), comparisons(part)
        summary = summarise(part, runs)
        overall = [_overall(row, part) for row in summary.to_dict("records")]
        cautions = _cautions(part, ranks, pairs)
        found.append(Statistics(dataset, net, int(images), overall, ranks, pairs, cautions, what_varies(summary)))
    return found


def _overall(row: dict[Any, Any], part: pd.DataFrame) -> Overall:
    own = part[
        (part["attack"] != "clean")
        & (part["flag"] == "")
        & part["der"].notna()
        & (part["defense"] == row["defense"])
        & (part["selection"] == row["selection"])
    ]
    labels = [attack_label(line) for line in own.to_dict("records")]
    worst = {}
    for score, sign in (("asr", -1), ("der", 1)):
        at = int((sign * own[score]).to_numpy().argmin())
        worst[score] = (float(own[score].iloc[at]), labels[at])
    return Overall(row, {score: over_attacks(own[score].dropna().tolist()) for score in ("acc", "asr", "ra", "der")}, worst)


def _cautions(part: pd.DataFrame, ranks: Ranking | None, pairs: list[Comparison]) -> list[str]:
    """What the numbers of this part are too few for."""
    shown = part[part["acc"].notna()]
    attacked = shown[shown["attack"] != "clean"]
    cells = attacked if len(attacked) else shown
    least, most, draws = (
        int(values) if len(cells) else 0 for values in (cells["seeds"].min(), cells["seeds"].max(), cells["draws"].max())
    )
    found = []
    if most <= 1 and draws <= 1:
        found.append("One seed and one draw: nothing is known of how much results vary from one training to the next.")
    elif most <= 1:
        found.append("One seed: the intervals are over draws of the clean images and say nothing of other victims.")
    elif least < FEW:
        seeds = f"{least} seeds" if least == most else f"{least} to {most} seeds"
        found.append(f"{seeds}: intervals over so few are wide, and their width is itself uncertain.")
    took = attacked[attacked["flag"] == ""]
    attacks = len({attack_label(row) for row in took.to_dict("records")})
    if attacks < FEW:
        found.append(f"{attacks} {'attack' if attacks == 1 else 'attacks'}: too few for intervals over attacks (at least {FEW}).")
    if ranks is not None:
        if ranks.attacks <= ENOUGH:
            found.append(f"{ranks.attacks} attacks: Friedman's test is a rough approximation up to {ENOUGH}.")
        if ranks.left_out:
            found.append(f"Not ranked, measured on fewer than half of the attacks: {', '.join(ranks.left_out)}.")
        if ranks.dropped:
            found.append(f"Not ranked on attacks that some defenses lack: {', '.join(ranks.dropped)}.")
    elif (shown["selection"] != "none").any():  # a suite without a defense has nothing to rank
        found.append("Ranks are not tested: that takes two attacks and three defenses measured on both.")
    if any(pair.better + pair.worse < LEAST for pair in pairs):
        found.append(f"Wilcoxon's test cannot reach p < 0.05 with fewer than {LEAST} attacks that differ.")
    return found


def to_markdown(found: list[Statistics], name: str) -> str:
    """``statistics.md``."""
    lines = [f"# Statistics: {name}", ""]
    for part in found:
        lines += [f"## {part.dataset}, {part.net}, {part.clean_images} clean images", ""]
        lines += [*(f"- {caution}" for caution in part.cautions), ""] if part.cautions else []
        lines += [*_overall_lines(part.overall, part.varies), *_rank_lines(part.ranking), *_pair_lines(part.comparisons)]
    return "\n".join(lines)


def _overall_lines(overall: list[Overall], varies: str) -> list[str]:
    if not overall:
        return ["No attack took and was defended.", ""]
    head = ["defense", "selection", "attacks", "ACC", "ASR", "worst ASR", "DER", "worst DER"]
    rows = []
    for item in overall:
        row = item.row
        worst = [f"{value:.1f} ({attack})" for value, attack in (item.worst["asr"], item.worst["der"])]
        means = [with_interval(row[score], item.spreads[score], row[f"{score}_std"]) for score in ("acc", "asr", "der")]
        rows.append([row["defense"], row["selection"], str(row["attacks"]), means[0], means[1], worst[0], means[2], worst[1]])
    return [
        *lines_of(head, rows),
        "",
        "Percent, means over attacks that took, with the 95 % interval of a bootstrap over attacks: how the mean would vary with",
        "other attacks like these. It says nothing of other seeds.",
        *([varies] if varies else []),
        "",
    ]


def with_interval(value: float, spread: Spread | None, std: float | None) -> str:
    """``84.7 ± 0.2 [84.3, 85.1]``, or what there is of it."""
    interval = "" if spread is None else f" [{spread.low:.1f}, {spread.high:.1f}]"
    return f"{spread_cell(value, std)}{interval}"


def p_text(value: float | None) -> str:
    """A p-value as papers write it; a dash for none."""
    return "—" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _rank_lines(ranks: Ranking | None) -> list[str]:
    if ranks is None:
        return []
    rows = [(name, f"{rank:.2f}") for name, rank in ranks.ranks.items()]
    order = list(ranks.ranks)
    alike = "; ".join(", ".join(order[first : last + 1]) for first, last in ranks.groups) or "none"
    return [
        *lines_of(("defense", "mean rank"), rows),
        "",
        f"Mean ranks by DER over {ranks.attacks} attacks, 1 the best, `none` among them.",
        f"Friedman's test: p {p_of(ranks.p_value)}. Critical difference (Nemenyi, 5 %): {ranks.difference:.2f}.",
        f"Not told apart: {alike}.",
        "",
    ]


def p_of(value: float) -> str:
    """``= 0.021`` or ``< 0.001``."""
    text = p_text(value)
    return text if text.startswith("<") else f"= {text}"


def _pair_lines(pairs: list[Comparison]) -> list[str]:
    if not pairs:
        return []
    one = pairs[0].one
    head = [f"{one} against", "attacks", "better", "worse", "median ΔDER", "effect", "p", "p, Holm"]
    rows = []
    for pair in pairs:
        effect = "—" if pair.effect is None else f"{pair.effect:+.2f}"
        numbers = [str(pair.pairs), str(pair.better), str(pair.worse), f"{pair.median + 0.0:+.1f}", effect]
        rows.append([pair.other, *numbers, p_text(pair.p_value), p_text(pair.p_holm)])
    return [
        *lines_of(head, rows),
        "",
        "Wilcoxon's signed-rank test over attacks, two-sided, of the differences of DER; Holm corrects for the number of",
        "comparisons. Effect: rank-biserial correlation, 1 if better on every attack, -1 if worse.",
        "",
    ]

"""The table of defenses: means over the attacks that took, ranks, damage on the clean net, and how much seeds matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from statistics import stdev
from typing import Any

import pandas as pd

from mnp_plugin.report.ranks import attack_label, block, compared, complete, mean_ranks
from mnp_plugin.report.varying import AVERAGED, Varying, mean_over_attacks

SUMMARY = {
    "acc": "ACC",
    "asr": "ASR",
    "excess_asr": "excess",
    "worst_asr": "worst ASR",
    "ra": "RA",
    "der": "DER",
    "rank": "rank",
    "clean_delta_acc": "ΔACC clean",
    "seconds": "seconds",
}
"""Columns of the table of defenses, and their heads; the excess stands there where it was measured."""
MEANS = ("acc", "asr", "ra", "der", "excess_asr")
"""Scores that are means over attacks."""


def summarise(table: pd.DataFrame, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Per defense and selection: means over attacks that took, mean rank by DER, damage on the clean model; best first.

    A row is ``whole`` if it is over all attacks that its like is over (``selection`` and ``knowledge`` tell them apart); rows
    that are not stand last. Ranks are over attacks that all ranked defenses were measured on (:func:`ranks.complete`).

    Args:
        table: part of a leaderboard of one data set, net and number of clean images.
        runs: single runs, as :func:`~mnp_plugin.report.frames.runs` gives them, of which those of ``table`` count. With them,
            scores have a ``*_std``, the standard deviation over seeds (or draws of one victim); ``varies`` says over what, and
            ``n`` over how many. All are missing for single runs, and where attacks were not all run with the same seeds and
            draws; ``several`` tells the two apart.
    """
    attacked = table[(table["attack"] != "clean") & (table["flag"] == "") & table["der"].notna()]
    ranks = mean_ranks(complete(block(table))) if len(attacked) else pd.Series(dtype=float)
    healthy = table[(table["attack"] == "clean") & table["acc"].notna()]
    single = {} if runs is None else runs_by_defense(table, runs, (*MEANS, "delta_acc"))
    rows = []
    for (defense, selection), part in attacked.groupby(["defense", "selection"], sort=True):
        labels = frozenset(map(attack_label, part.to_dict("records")))
        clean = healthy[(healthy["defense"] == defense) & (healthy["selection"] != "oracle")]["delta_acc"]
        rows.append(
            {
                "defense": defense,
                "selection": selection,
                "knowledge": part["knowledge"].iloc[0] if "knowledge" in part else "",
                "attacks": len(part),
                "labels": labels,
                **{k: part[k].mean() for k in ("acc", "asr", "ra", "der", "seconds")},
                "excess_asr": part["excess_asr"].mean(skipna=False),  # of some of the attacks it would not fit the ASR beside it
                "worst_asr": part["asr"].max(),
                "rank": ranks.get(defense) if compared(part).all() else None,
                "clean_delta_acc": clean.mean() if len(clean) and selection != "oracle" else None,
                "several": runs is not None and bool((part["seeds"] > 1).any() or (part["draws"] > 1).any()),
                **_spreads(single.get((str(defense), str(selection)), []), labels),
            }
        )
    summary = pd.DataFrame(rows)
    if summary.empty:
        return summary
    like = summary["selection"] == "oracle", summary["knowledge"]
    all_of = {key: frozenset().union(*labels) for key, labels in summary["labels"].groupby(list(like))}
    summary["whole"] = [row == all_of[key] for row, key in zip(summary.pop("labels"), zip(*like, strict=True), strict=True)]
    return summary.sort_values(["whole", "der", "defense", "selection"], ascending=[False, False, True, True])


def runs_by_defense(
    table: pd.DataFrame, runs: pd.DataFrame, scores: Sequence[str]
) -> dict[tuple[str, str], list[dict[Any, Any]]]:
    """Measured ``runs`` of the part that ``table`` is, by defense and selection: these scores, and the label of the attack."""
    part = runs["acc"].notna()
    for key in ("dataset", "net", "clean_images"):
        part &= runs[key].isin(table[key].unique())
    found: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    names = ["attack", "poison_ratio", "defense", "selection", "seed", "draw", *scores]
    for row in runs.loc[part, names].to_dict("records"):
        found.setdefault((row["defense"], row["selection"]), []).append({**row, "label": attack_label(row)})
    return found


def means_over_attacks(runs: Sequence[Mapping[str, Any]], attacks: Set[str], score: str) -> Varying | None:
    """The means of ``score`` over ``attacks``, of each seed (or draw) of one defense; None where nothing varies by itself.

    Args:
        runs: of a defense, from :func:`runs_by_defense`.
        attacks: labels.
        score: name of a column.
    """
    return mean_over_attacks(
        [(r["label"], r["seed"], r["draw"], r[score]) for r in runs if r["label"] in attacks and not pd.isna(r[score])]
    )


def _spreads(runs: Sequence[Mapping[str, Any]], attacks: Set[str]) -> dict[str, Any]:
    """Standard deviations of the means over ``attacks``, and of the change on the clean net; None where there is none."""
    found: dict[str, Any] = dict.fromkeys((*(f"{key}_std" for key in (*MEANS, "clean_delta_acc")), "varies", "n"))
    for name, labels, key in (*((key, attacks, key) for key in MEANS), ("clean_delta_acc", {"clean"}, "delta_acc")):
        if name == "clean_delta_acc" and found["n"] is None:
            break
        if (seen := means_over_attacks(runs, labels, key)) is not None:
            found[f"{name}_std"] = stdev(seen.values)
            if name == "acc":  # every run has one
                found |= {"varies": seen.what, "n": len(seen.values)}
    return found


def what_varies_in_cells(table: pd.DataFrame, scores: Sequence[str] = ("acc", "asr", "ra", "der")) -> str:
    """What the ± of single rows of a leaderboard is, as a sentence; empty where there is none."""
    known = table[table[[f"{score}_std" for score in scores]].notna().any(axis=1)]
    kinds = []
    for word, key in (("victim seed", "seeds"), ("clean draw", "draws")):
        counts = known.loc[known[key] > 1, key]
        if len(counts):
            kinds.append(f"{word} (n = {_least_to_most(counts)})")
    return f"±: standard deviation over the runs of a cell; what varies: {' and '.join(kinds)}." if kinds else ""


def _least_to_most(counts: pd.Series) -> str:
    least, most = int(counts.min()), int(counts.max())
    return f"{most}" if least == most else f"{least} to {most}"


def what_varies(summary: pd.DataFrame) -> str:
    """What the ± of a summary is, as a sentence; empty for single runs of everything."""
    if summary.empty:
        return ""
    known = summary[summary["n"].notna()]
    uneven = "attacks were run with different seeds"
    if known.empty:
        return f"No ±: {uneven}." if summary["several"].any() else ""
    kinds = set(known["varies"])
    kinds -= {"victim seed"} if AVERAGED in kinds else set()  # a row of one draw, as that without a defense, is no other kind
    what = " or ".join(sorted(kinds))
    without = f"; without one: {uneven}" if summary["several"].sum() > len(known) else ""
    return f"±: standard deviation of the mean over attacks; what varies: {what}, n = {_least_to_most(known['n'])}{without}."

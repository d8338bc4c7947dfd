"""Tables of detectors of single images."""

from __future__ import annotations

from dataclasses import replace

from mnp_plugin.report.latex_detectors import samples_to_latex
from mnp_plugin.report.samples import SampleRecord
from mnp_plugin.report.screened import sample_lines, sample_table

ONE = SampleRecord(
    id="0" * 16, victim="v", suite="made", dataset="digits", net="smallnet", attack="badnets", poison_ratio=0.1, seed=0,
    detector="sieve", questions="inputs", status="ok", asr=1.0, positives=5, negatives=5, auroc=0.7, tpr_at_5_fpr=0.5, tpr=0.6,
    fpr=0.1, clean_images=100, seconds=1.0,
)  # fmt: skip


def test_several_victims_have_a_spread_and_a_single_one_has_none() -> None:
    single, several = (
        "\n".join(
            sample_lines(sample_table([replace(ONE, seed=seed, victim=str(seed), auroc=0.7 + 0.1 * seed) for seed in seeds], 0.8))
        )
        for seeds in ((0,), (0, 1, 2))
    )
    assert "| digits, smallnet | sieve | 1 | 0.70 | 50.0 |" in single
    assert "| digits, smallnet | sieve | 3 | 0.80 ± 0.10 | 50.0 ± 0.0 |" in several


def test_spreads_by_attack_are_over_its_victims_and_clean_sets_are_counted() -> None:
    rows = [replace(ONE, questions="training set", seed=i, victim=f"a{i}", auroc=0.7 + 0.1 * i) for i in range(3)]
    rows.append(replace(rows[0], attack="sig", victim="s", auroc=0.5))
    rows += [replace(rows[i], attack="clean", victim=f"c{i}", positives=0, auroc=None, fpr=0.1 * i) for i in range(2)]
    text = "\n".join(sample_lines(sample_table(rows, 0.8)))
    assert "| 5.0 ± 7.1 (2) |" in text
    assert "| badnets (3) | sig (1) |" in text
    assert "| digits, smallnet | sieve | 0.80 ± 0.10 | 0.50 |" in text


def test_tables_for_papers_hold_the_detectors_of_each_kind_of_images() -> None:
    rows = [replace(ONE, seed=seed, victim=str(seed), auroc=0.7 + 0.1 * seed) for seed in range(3)]
    rows.append(replace(ONE, detector="net_2", auroc=0.9))
    text = samples_to_latex(sample_table([*rows, replace(ONE, questions="training set")], 0.8), "made")
    inputs, training = text.split(r"\end{table}")[:2]
    assert r"\caption{Detectors of triggered inputs: digits, smallnet. Means over victims" in inputs
    assert r"net\_2 & 1 & \textbf{0.90} & " in inputs
    assert r"sieve & 3 & \underline{0.80 {\scriptsize $\pm$ 0.10}} & " in inputs
    assert r"Detectors of poisoned training images" in training
    assert r"sieve & 1 & 0.70 & " in training
    assert samples_to_latex(sample_table([], 0.8), "none") == ""

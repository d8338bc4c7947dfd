"""A threshold from clean nets of one's own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from mnp_plugin.api.calibrate import calibrate
from mnp_plugin.cli.app import main
from mnp_plugin.core.errors import UserError


def test_at_most_the_share_that_is_allowed_scores_above() -> None:
    few = calibrate([0.3, 0.1, 0.2])
    assert (few.threshold, few.above, few.nets) == (0.3, 0, 3)
    many = calibrate([i / 100 for i in range(100)])
    assert (many.threshold, many.above) == (0.94, 5)


def test_the_interval_holds_the_share_of_false_alarms() -> None:
    one = calibrate([0.1, 0.2, 0.3])  # the share above the largest of three is Beta(1, 3)
    assert one.low == pytest.approx(1 - 0.975 ** (1 / 3))
    assert one.high == pytest.approx(1 - 0.025 ** (1 / 3))
    stream, held = random.Random(0), 0
    for _ in range(400):
        found = calibrate([stream.random() for _ in range(30)], 0.1)
        held += found.low <= 1 - found.threshold <= found.high
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize(
    ("scores", "fpr"), [([0.1], 0.05), ([], 0.05), ([0.1, float("nan")], 0.05), ([0.1, 0.2], 0.0), ([1, 2], 1)]
)
def test_what_cannot_be_calibrated_is_said(scores: list[float], fpr: float) -> None:
    with pytest.raises(UserError):
        calibrate(scores, fpr)


def test_the_verb_reads_what_detect_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, score: float | None, **settings: object) -> str:
        report = {"detector": {"name": "mnp", "threshold": None, **settings}, "score": score}
        (tmp_path / name).write_text(json.dumps(report))
        return str(tmp_path / name)

    files = [write("a.json", 0.25), write("b.json", 0.5, threshold=1.0)]
    assert main(["calibrate", *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["threshold"], found["nets"], found["detector"]["name"]) == (0.5, 2, "mnp")
    assert main(["calibrate", *files]) == 0
    assert "--settings threshold=0.5" in capsys.readouterr().out
    for other, message in (
        (write("c.json", 0.1, draws=9), "other settings"),
        (write("d.json", None), "no verdict with a score"),
        (str(tmp_path / "none.json"), "No such file"),
    ):
        assert main(["calibrate", *files, other]) == 2
        assert message in capsys.readouterr().err

"""A suite of made-up records, as large as a test asks for, and a browser to look at its page in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnp_plugin.report.records import Record, Scores
from mnp_plugin.report.texts import sealed, to_json
from mnp_plugin.report.trials import TrialRecord

DEFENSES = ("none", "ft", "anp", "mnp")
STRENGTH = {"none": 0.0, "ft": 0.1, "anp": 0.7, "mnp": 0.95}


def synthetic(
    attacks: int, defenses: Sequence[str] = DEFENSES, seeds: Sequence[int] = (0,), draws: Sequence[int] = (0,), **more: Any
) -> list[Record]:
    """Records of attacks ``attack00`` and so on; the same for the same arguments."""
    noise = np.random.default_rng(0)
    found = []
    for number in range(attacks):
        for seed in seeds:
            before = Scores(acc=round(0.9 + 0.01 * float(noise.random()), 4), asr=1.0, ra=0.0)
            for name in defenses:
                for draw in draws:
                    strength = STRENGTH.get(name, 0.5) * (0.9 + 0.1 * float(noise.random()))
                    after = Scores(
                        acc=round(before.acc - 0.02 * strength, 4), asr=round(1 - strength, 4), ra=round(0.9 * strength, 4)
                    )
                    oracle = Scores(acc=before.acc - 0.01, asr=0.02, ra=0.85) if name == "anp" else None
                    facts: dict[str, Any] = {
                        "cell": f"{len(found):016x}", "suite": "made", "dataset": "digits", "net": "smallnet",
                        "attack": f"attack{number:02d}", "defense": name, "seed": seed, "draw": draw, "status": "ok",
                        "poison_ratio": 0.05, "clean_images": 100, "clean_source": "held-out", "gate": 0.8, "before": before,
                        "after": before if name == "none" else after, "oracle": oracle, "seconds": 1.0 + STRENGTH.get(name, 0.5),
                        "peak_mb": 500.0, "prune": {"pruned": 3, "of": 64}, "spec": {"seed": seed, "defense": {"name": name}},
                    }  # fmt: skip
                    found.append(Record(**facts | more))
    return found


def written(folder: Path, records: Sequence[Record], trials: Sequence[TrialRecord] = ()) -> Path:
    """``folder`` with a suite of ``records`` and ``trials``."""
    (folder / "records").mkdir(parents=True)
    names = []
    for record in records:
        draw = f"-d{record.draw}" if record.draw else ""
        name = f"{record.attack}-{record.defense}-s{record.seed}{draw}-{record.cell}.json"
        (folder / "records" / name).write_text(to_json(record))
        names.append(name)
    plan: dict[str, Any] = {"suite": folder.name, "gate": 0.8, "records": names}
    if trials:
        (folder / "trials").mkdir()
        plan["trials"] = [f"{one.attack}-{one.defense}-{one.trial}-s{one.seed}-{one.id}.json" for one in trials]
        for name, trial in zip(plan["trials"], trials, strict=True):
            (folder / "trials" / name).write_text(to_json(trial))
    (folder / "suite.json").write_text(json.dumps(sealed(plan)))
    return folder


@pytest.fixture
def make_records() -> Callable[..., list[Record]]:
    """:func:`synthetic`."""
    return synthetic


@pytest.fixture
def write_suite() -> Callable[..., Path]:
    """:func:`written`."""
    return written


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real one; tests that take it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'mnp_plugin[browser]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; the test fails if the page says anything on its console or asks for anything."""
    contexts: list[Any] = []
    said: list[str] = []

    def opened(file: Path, width: int = 1280, scheme: str = "light", fragment: str = "") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.goto(f"{file.as_uri()}{fragment}")
        page.wait_for_selector("#provenance")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []

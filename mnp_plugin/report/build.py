"""Rebuild a suite's tables from its records."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from mnp_plugin.io.atomic import write_atomic
from mnp_plugin.report.after import after_lines
from mnp_plugin.report.detection import detection, detection_lines
from mnp_plugin.report.detection import to_csv as summary_csv
from mnp_plugin.report.extra import hint
from mnp_plugin.report.figures.catalogue import OF_DETECTORS, OF_PARTS, drawn
from mnp_plugin.report.figures.kept import NOTE, kept, note, origin
from mnp_plugin.report.judged import judged
from mnp_plugin.report.judged import to_csv as judged_csv
from mnp_plugin.report.latex import to_latex
from mnp_plugin.report.latex_detectors import nets_to_latex, samples_to_latex
from mnp_plugin.report.leaderboard import to_csv, to_markdown
from mnp_plugin.report.markdown import escape, in_markdown
from mnp_plugin.report.page.data import suite_data
from mnp_plugin.report.page.render import render
from mnp_plugin.report.published import beside
from mnp_plugin.report.screened import sample_lines, sample_table
from mnp_plugin.report.screened import to_csv as samples_csv
from mnp_plugin.report.shown import Shown, shown
from mnp_plugin.report.spread import to_csv as intervals_csv
from mnp_plugin.report.statistics import statistics
from mnp_plugin.report.statistics import to_markdown as statistics_md
from mnp_plugin.report.versions import version_lines

PAGE = "index.html"
INTERVALS = "intervals.csv"
OF_NETS, OF_IMAGES = ("detection.csv", "detection_summary.csv"), "samples.csv"
"""Tables of detectors, where the suite has some."""
FIGURES = "figures"
"""Folder of the figures, beside the tables."""
DRAWN = (*OF_PARTS, *OF_DETECTORS)


@dataclass(frozen=True)
class Built:
    """Files that were written, and what they show.

    ``records`` counts the records shown, ``unsaid`` those of them that do not say which images they were made from; ``left_out``
    names the record files of other settings or images, and ``damaged`` says one sentence of each damaged file.
    ``further`` are the files beside csv and md, ``hint`` says what else there would be with the extra ``[report]``.
    """

    csv: Path
    md: Path
    records: int
    left_out: list[str]
    unsaid: int
    damaged: list[str]
    further: list[Path] = field(default_factory=list)
    hint: str = ""


def build_tables(folder: Path, published: Path | None = None, *, figures: bool = False) -> Built:
    """Write ``leaderboard.csv``, ``.md`` and ``.tex`` into ``folder`` (``results/<suite>``); with the extra ``[report]`` also
    ``intervals.csv``, ``statistics.md`` and the page ``index.html``.

    Args:
        folder: of the suite.
        published: a file of figures from elsewhere, which the md then sets beside ours, marked as such.
        figures: draw ``figures/*.svg`` and ``*.pdf``, too, which takes seconds, unless those of the same results are there;
            needs the extra.

    Raises:
        UserError: no records, or one that cannot be read and is not damaged.
    """
    seen = shown(folder, published)
    own, table = seen.own, seen.table
    verdicts, plan = own.verdicts, own.plan
    unsaid = sum(record.unsaid for record in own.records)
    built = Built(
        csv=folder / "leaderboard.csv",
        md=folder / "leaderboard.md",
        records=len(own.records),
        left_out=own.left_out,
        unsaid=unsaid,
        damaged=list(own.damaged),
        hint=hint(),
    )
    write_atomic(built.csv, to_csv(table).encode())
    plain, title = in_markdown(table), escape(folder.name)
    runs = in_markdown(seen.runs) if plain is not table else seen.runs
    text = to_markdown(plain, f"Leaderboard: {title}", escape(" ".join(own.notices)), runs)
    if versions := version_lines(own.records):
        text += "\n".join(versions)
    if after := after_lines(plain, runs):
        text += "\n" + "\n".join(after)
    tex = to_latex(table, folder.name, seen.runs)
    if plan is not None and verdicts:
        gate, calibration = plan.gate or 0.0, plan.calibration_seeds
        found = detection(verdicts, gate, calibration)
        for name, content in zip(OF_NETS, (judged_csv(judged(verdicts, gate, calibration)), summary_csv(found)), strict=True):
            write_atomic(folder / name, content.encode())
        text += "\n" + "\n".join(detection_lines(in_markdown(found)))
        tex += nets_to_latex(found, folder.name)
    else:  # the suite has none any more
        for name in OF_NETS:
            (folder / name).unlink(missing_ok=True)
    if plan is not None and own.samples:
        screened = sample_table(own.samples, plan.gate or 0.0)
        write_atomic(folder / OF_IMAGES, samples_csv(screened).encode())
        text += "\n" + "\n".join(sample_lines(in_markdown(screened)))
        tex += samples_to_latex(screened, folder.name)
    else:
        (folder / OF_IMAGES).unlink(missing_ok=True)
    if seen.published is not None:
        text += "\n" + "\n".join(beside(plain, seen.published))
    write_atomic(built.md, text.encode())

    def further(name: str, content: str | bytes) -> None:
        write_atomic(folder / name, content.encode() if isinstance(content, str) else content)
        built.further.append(folder / name)

    further("leaderboard.tex", tex)
    if not built.hint:
        if len(seen.intervals):
            further(INTERVALS, intervals_csv(seen.intervals))
        else:  # one run of everything
            (folder / INTERVALS).unlink(missing_ok=True)
        further("statistics.md", statistics_md(seen.statistics if plain is table else statistics(plain, runs), title))
        further(PAGE, render(suite_data(seen)))
        built.damaged.extend(own.beside.damaged)  # the page alone looks at what lies beside records
        if figures:
            built.further.extend(_draw(seen))
    return built


def _draw(seen: Shown) -> list[Path]:
    """The figures, drawn unless they are there already; those that there is nothing for any more are removed."""
    folder, made_from = seen.own.folder / FIGURES, origin(seen)
    if (found := kept(folder, made_from)) is not None:
        return found
    files = dict(drawn(seen, ("svg", "pdf")))
    if not files and not folder.exists():
        return []
    folder.mkdir(exist_ok=True)
    for name, content in {**files, NOTE: note(made_from, files).encode()}.items():
        write_atomic(folder / name, content)
    for file in folder.glob("*.*"):
        if file.suffix in (".svg", ".pdf") and file.name not in files and re.sub(r"-\d+$", "", file.stem) in DRAWN:
            file.unlink()
    return [folder / name for name in files]

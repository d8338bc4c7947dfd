"""Tables in LaTeX, by booktabs: text that is no command, columns, and the best and second of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$", "Δ": r"$\Delta$", "—": "--",
}  # fmt: skip

TEXT_WIDTH = 75
"""Tables of more characters are shrunk to the width of the text; the narrowest in use, that of the class article, holds that."""


def escape(text: object) -> str:
    """``text`` as LaTeX prints it; nothing in it is a command, and control characters are spaces."""
    return "".join(SPECIAL.get(c, c if c.isprintable() else " ") for c in str(text))


def label_of(*parts: object) -> str:
    """A label of letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(map(str, parts)))


def tabular(
    heads: Sequence[str],
    body: Sequence[Sequence[str]],
    align: str,
    caption: str,
    label: str,
    last: Sequence[str] | None = None,
    note: str = "",
) -> list[str]:
    """A table as lines of LaTeX; cells are LaTeX, too.

    Args:
        heads: of the columns.
        body: the rows; an empty cell is a dash.
        align: of the columns, as ``lrr``.
        caption: plain text.
        label: after ``tab:``.
        last: a row below a line.
        note: LaTeX behind the caption.
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(_minus(cell) or "--" for cell in cells) + r" \\"

    wide = _width([heads, *body]) > TEXT_WIDTH
    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}{'. ' + note if note else ''}}}",
        rf"\label{{tab:{label}}}",
        r"\smallskip",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        line(heads),
        r"\midrule",
        *map(line, body),
        *([r"\midrule", line(last)] if last is not None else []),
        r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""),
        r"\end{table}",
    ]


def _width(rows: Sequence[Sequence[str]]) -> int:
    """About how many characters wide a table of ``rows`` is printed, with the space between its columns."""
    return sum(
        3 + max(len(re.sub(r"\\[a-zA-Z]+\{?|[\\{}$^]", "", cell)) for cell in column) for column in zip(*rows, strict=True)
    )


def _minus(cell: str) -> str:
    """A negative number, marked or not, with a minus instead of a hyphen."""
    return re.sub(r"^(\\(?:textbf|underline)\{)?-(?=\d)", r"\1$-$", cell)


def marked(texts: Sequence[str], ranked: Sequence[bool], more: bool) -> list[str]:
    """``texts`` with the best of those that are ranked in bold and the second underlined; what prints alike is marked alike."""
    values = {i: float(text.split(" ")[0]) for i, text in enumerate(texts) if text and ranked[i]}
    order = sorted(set(values.values()), reverse=more)
    found = list(texts)
    if len(values) > 1:
        for i, value in values.items():
            if value == order[0]:
                found[i] = rf"\textbf{{{texts[i]}}}"
            elif value == order[1] and sum(v == order[0] for v in values.values()) == 1:
                found[i] = rf"\underline{{{texts[i]}}}"
    return found

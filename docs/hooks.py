"""What the site takes from the repository instead of repeating it; an mkdocs hook.

* Home, contributing and changelog are the files at the top of the repository.
* The command line is read from its parser, the methods from ``describe``.
* ``<!-- table: FILE FIRST -->`` in a page becomes the table of ``FILE`` whose first heading is ``FIRST``, ``<!-- json: FILE -->``
  the text of a JSON file, ``<!-- clauses: FILE -->`` the clauses of the contract test in ``FILE``, and, inside of a line,
  ``<!-- lines: ROOMS -->`` how many lines of Python these rooms have.

``python docs/hooks.py`` writes the summary of ``results/demo/leaderboard.md`` into the README, between its two demo comments.
"""

from __future__ import annotations

import argparse
import ast
import os
import posixpath
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mnp_plugin"
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files at the top of the repository, and the pages they become."""
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
DEMO = "results/demo/leaderboard.md"
ABOUT_NUMBERS = (
    "What a method does otherwise than its paper or its authors' code stands in its description, and what is the same for all in "
    "[the protocol](../concepts/protocol.md). Published numbers are of other networks, images and budgets of clean images; "
    "`mnp-bench report --published` [sets them beside yours](../integrations/backdoorbench.md#published-figures-beside-ours)."
)
"""Why no published number is on the pages of attacks and defenses."""

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#]+)(#[^)]*)?\)")
PICTURE = re.compile(r"!\[([^\]]+)\]\(docs/([^)]+)\)")
DIRECTIVE = re.compile(r"^<!-- (table|json|clauses): (\S+) ?(.*?) -->$", re.MULTILINE)
LINES = re.compile(r"<!-- lines: ([\w ]+) -->")
ROLE = re.compile(r":(?:meth|class|func|mod|data|attr):(?=<code>|`)")
SETTING = re.compile(r"^  (\w+) = (.*?)  \((.*?)\)  (.*)$")


# -- mkdocs calls these


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from something else."""
    from mkdocs.structure.files import File

    pages = {page: top_page(name) for name, page in TOP.items()}
    pages["guide/cli.md"] = command_line()
    pages |= {f"methods/{kind}s.md": methods(kind) for kind in ("attack", "defense", "detector", "sample_detector")}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the tables of results; name files of the repository that are no pages instead of linking to them."""
    return without_dead_links(with_results(markdown), page.file.src_uri)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings mark code with Sphinx's roles, which mkdocstrings shows as they are."""
    return ROLE.sub("", html)


# -- what they need


def top_page(name: str) -> str:
    """The text of a file at the top of the repository, its links made those of the site."""
    text = (ROOT / name).read_text(encoding="utf-8")

    def there(found: re.Match[str]) -> str:
        target = TOP.get(found[2], found[2].removeprefix("docs/"))
        return f"[{found[1]}]({target}{found[3] or ''})"

    return LINK.sub(there, PICTURE.sub(r"![\1](\2)", text))


def without_dead_links(text: str, page: str) -> str:
    """Links to files outside of ``docs/``, which a reader of the site has not, become the files' names."""

    def there(found: re.Match[str]) -> str:
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(page), found[2]))
        if inside.startswith(".."):
            top = TOP.get(inside.removeprefix("../"))
            if top is None:
                return f"`{inside[3:]}`"
            return f"[{found[1]}]({os.path.relpath(top, posixpath.dirname(page) or '.')}{found[3] or ''})"
        return found[0] if inside.endswith(".md") and not inside.startswith("results/") else f"{found[1]} (`{found[2]}`)"

    return LINK.sub(there, text)


def with_results(text: str) -> str:
    """``text`` with every comment of the four kinds (see the head of this file) replaced by what it names."""

    def there(found: re.Match[str]) -> str:
        content = (ROOT / found[2]).read_text(encoding="utf-8")
        if found[1] == "json":
            return f"```json\n{content.strip()}\n```"
        return clauses(content) if found[1] == "clauses" else table(content, found[3])

    return LINES.sub(lambda found: lines(found[1].split()), DIRECTIVE.sub(there, text))


def lines(rooms: list[str]) -> str:
    """Lines of Python in ``rooms`` and in brackets how many files; ``root`` is what lies in no room, ``package`` everything."""
    where = {"root": "*.py", "package": "**/*.py"}
    files = [file for room in rooms for file in PACKAGE.glob(where.get(room, f"{room}/**/*.py"))]
    total = sum(file.read_text(encoding="utf-8").count("\n") for file in files)
    return f"{total} ({len(files)})"


def table(text: str, first: str) -> str:
    """The Markdown table in ``text`` whose first heading is ``first``.

    Raises:
        ValueError: no such table, or several.
    """
    found = [t for t in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE) if t.startswith(f"| {first} |")]
    if len(found) != 1:
        raise ValueError(f"{len(found)} tables begin with '{first}', not one")
    return str(found[0]).strip()


def clauses(code: str) -> str:
    """What the contract test demands, by the function that demands it (``_check_attack`` and so on)."""
    lines: list[str] = []
    for function in ast.parse(code).body:
        if not isinstance(function, ast.FunctionDef) or not function.name.startswith("_check_"):
            continue
        calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
        claims = [call for call in calls if ast.unparse(call.func) in ("_demand", "passed.append")]
        texts = [a.value for call in claims for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if texts:
            name = {"component": "every method", "poison": "attack on data", "hook": "attack in training"}
            what = function.name.removeprefix("_check_")
            lines += ["", f"**{name.get(what, what).capitalize()}**", "", *(f"- {text}" for text in dict.fromkeys(texts))]
    return "\n".join(lines).strip()


def command_line() -> str:
    """A page with every verb of ``mnp-bench`` and its arguments."""
    from mnp_plugin.cli.app import _parser

    parser = _parser()
    lines = [
        "# Command line",
        "",
        f"`mnp-bench COMMAND`, or `python -m mnp_plugin COMMAND`. {parser.description}",
        "",
        "Exit status: 0 done; 1 a cell or a method failed, and its record or message says why; 2 bad input, named in one",
        "sentence; 130 interrupted. Finished cells are kept: the same command continues where it stopped.",
    ]
    for name, verb in _verbs(parser):
        verb.formatter_class = partial(argparse.HelpFormatter, width=100)  # or else as wide as the terminal
        usage = verb.format_usage().removeprefix("usage: ").replace("\n       ", "\n")
        lines += ["", f"## `{name}`", "", _sentence(verb.description or ""), "", "```", usage.strip(), "```"]
        rows = [_argument(action) for action in verb._actions if action.dest != "help"]
        if rows:
            lines += ["", "| argument | default | meaning |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _verbs(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, verb in action.choices.items():
                inner = list(_verbs(verb, f"{prefix}{name} "))
                verb.description = verb.description or helps.get(name)
                yield from inner or [(f"{prefix}{name}", verb)]


def _argument(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
    text = action.help or ""
    if action.choices:
        text += f" (one of {', '.join(map(str, action.choices))})"
    required = action.required and action.nargs != "?"
    none = action.default is None or action.default is False or action.default == "==SUPPRESS=="  # 0 is a default
    default = "required" if required else "" if none else f"`{_plain(action.default)}`"
    return f"| `{name}{value}` | {default} | {text.strip()} |"


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _sentence(text: str) -> str:
    text = text.strip()
    return text and text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def methods(kind: str) -> str:
    """A page with everything that ``describe`` says about the registered methods of one kind."""
    from mnp_plugin.cli.describe import describe
    from mnp_plugin.core import registries

    registry = getattr(registries, f"{kind}s")
    names, kind = registry.names(), registry.kind
    lines = [f"# {kind.capitalize()}s", "", f"Generated from `mnp-bench describe NAME`, for each registered {kind}."]
    if kind in ("attack", "defense"):
        lines += ["", ABOUT_NUMBERS]
    for name in names:
        parts = re.split(r"(?m)^(?=\S+ \(\w[\w ]*, from .*, version \d+\)$)", describe(name))
        (page,) = (part for part in parts if part.startswith(f"{name} ({kind}, "))
        lines += ["", *_method(page)]
    return "\n".join(lines) + "\n"


def _method(page: str) -> Iterator[str]:
    """The page of one method as Markdown: its name, its docstring, paper and facts, and a table of its hyper-parameters."""
    title, _, rest = page.strip().partition("\n")
    about, _, settings = rest.partition("\nhyper-parameters:\n")
    about, _, facts = about.strip().partition("\npaper: ")
    yield f"## `{title.partition(' ')[0]}`"
    yield ""
    yield ROLE.sub("", about).strip()
    yield ""
    for fact in f"paper: {facts}".strip().splitlines():
        yield f"- **{fact.partition(':')[0].capitalize()}**:{fact.partition(':')[2]}"
    rows = [SETTING.match(line) for line in settings.splitlines() if line.strip()]
    if rows:
        yield ""
        yield "| hyper-parameter | default | type, range | meaning |"
        yield "|---|---|---|---|"
    for row in rows:
        if row is None:
            raise ValueError(f"'describe' writes its settings in another form now: {settings}")
        yield f"| `{row[1]}` | `{row[2]}` | {row[3]} | {row[4]} |"


def with_demo(readme: str) -> str:
    """``readme`` with the summary table of the demo between its two comments."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    summary = table((ROOT / DEMO).read_text(encoding="utf-8"), "defense")
    return f"{before}{BEGIN}\n{summary}\n{END}{after}"


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(with_demo(file.read_text(encoding="utf-8")), encoding="utf-8")

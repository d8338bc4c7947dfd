from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mnp_plugin.core import documents
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.params import param


@dataclass(frozen=True, kw_only=True)
class Toy:
    rate: float = param(0.5, "share", above=0, high=1)
    count: int = param(3, "how many", low=1, high=9)
    flip: bool = param(True, "mirror")
    word: str = param("a", "any text")
    mode: Literal["fast", "slow"] = param("fast", "pace")
    channels: Literal[1, 3] = param(3, "colours")
    size: int | None = param(None, "side", low=2)
    lr: float | None = param(None, "step", above=0)
    layers: tuple[int, ...] = param((1, 2), "which", low=0)
    shares: tuple[float, ...] = param((), "weights", high=1)

    def __post_init__(self) -> None:
        spec.check(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    toy: Toy = field(default_factory=Toy)
    title: str = "t"


def settings(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


def read(text: str) -> Toy:
    return spec.build(Toy, spec.parse_yaml(text, "toy.yaml"), ())


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        read(text)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------- dataclasses


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({"rate": 0.0}, "> 0, <= 1"),
        ({"rate": -0.1}, "> 0, <= 1"),
        ({"rate": 1.0001}, "> 0, <= 1"),
        ({"count": 0}, ">= 1, <= 9"),
        ({"count": 10}, ">= 1, <= 9"),
        ({"size": 1}, ">= 2"),
        ({"lr": 0.0}, "> 0"),
        ({"layers": (4, -1)}, ">= 0"),
        ({"shares": (0.5, 2.0)}, "<= 1"),
    ],
)
def test_out_of_range(values: dict[str, Any], limits: str) -> None:
    with pytest.raises(UserError) as caught:
        Toy(**values)
    (name,) = values
    assert f"Toy.{name}" in str(caught.value)
    assert f"must be {limits}, not" in str(caught.value)


@pytest.mark.parametrize("values", [{"rate": 1.0}, {"rate": 1e-9}, {"count": 1}, {"count": 9}, {"size": 2}, {"layers": (0,)}])
def test_the_ends_of_a_range_are_allowed(values: dict[str, Any]) -> None:
    toy = Toy(**values)
    assert {name: getattr(toy, name) for name in values} == values


def test_an_int_becomes_a_float_where_a_float_is_due() -> None:
    toy = Toy(rate=1, lr=2, shares=(1, 0))
    assert [type(v) for v in (toy.rate, toy.lr, *toy.shares)] == [float] * 4
    assert type(Toy(count=2).count) is int


def test_one_and_one_point_zero_have_one_fingerprint() -> None:
    prints = {spec.fingerprint(spec.to_plain(t)) for t in (Toy(rate=1), Toy(rate=1.0), read("rate: 1"), read("rate: 1.0"))}
    assert len(prints) == 1
    assert spec.fingerprint(spec.to_plain(Toy(rate=0.9))) not in prints


@pytest.mark.parametrize(
    "values",
    [
        {"count": True},
        {"rate": True},
        {"channels": True},
        {"size": False},
        {"count": 2.0},
        {"count": "2"},
        {"flip": 1},
        {"flip": "yes"},
        {"word": 5},
        {"rate": None},
        {"layers": 3},
        {"layers": (1, "2")},
        {"layers": (1, True)},
        {"layers": "12"},
        {"mode": "FAST"},
        {"mode": True},
        {"channels": 2},
        {"channels": 3.0},
    ],
)
def test_wrong_types_are_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(UserError, match=rf"Toy\.{name}.* must be "):
        Toy(**values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["rate", "lr"])
def test_numbers_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    with pytest.raises(UserError, match=rf"Toy\.{name} must be"):
        Toy(**settings(name, bad))


def test_an_integer_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(UserError, match="rate"):
        Toy(rate=10**400)
    with pytest.raises(UserError, match=r"lr must be a finite number below 3\.4e\+38, not a number of 16610 bits"):
        Toy(lr=10**5000)
    with pytest.raises(UserError, match=r"count must be >= 1, <= 9, not a number of 16610 bits"):
        Toy(count=10**5000)


def test_numbers_that_32_bits_do_not_hold_are_refused() -> None:
    assert "lr' must be a finite number below 3.4e+38, not 1e+300" in refusal("lr: 1.0e+300")
    assert read("lr: 1.0e+38").lr == 1e38


def test_optional_takes_null_and_a_value() -> None:
    assert read("size: null").size is None
    assert read("size: 4\nlr: 3") == Toy(size=4, lr=3.0)
    assert "'size' must be int or null, not 'big'" in refusal("size: big")


def test_a_list_becomes_a_tuple() -> None:
    assert read("layers: [3, 0]").layers == (3, 0)
    assert read("shares: [1, 0.5]").shares == (1.0, 0.5)
    assert "'layers'[1] must be int, not 'x'" in refusal("layers: [1, x]")
    assert "list of int" in refusal("layers: 7")


def test_literal_offers_the_nearest() -> None:
    assert "must be one of 'fast', 'slow', not 'fasst'. Did you mean 'fast'?" in refusal("mode: fasst")


def test_a_nested_dataclass_is_read_from_a_nested_mapping() -> None:
    document = spec.parse_yaml("title: x\ntoy:\n  count: 4\n", "o.yaml")
    outer = spec.build(Outer, document, ())
    assert outer == Outer(title="x", toy=Toy(count=4))
    assert spec.to_plain(outer)["toy"]["layers"] == [1, 2]
    with pytest.raises(UserError, match=r"^o\.yaml, line 3: toy\.conut: unknown key 'conut'\. Did you mean 'count'\?"):
        spec.build(Outer, spec.parse_yaml("title: x\ntoy:\n  conut: 4\n", "o.yaml"), ())


# -------------------------------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize("key", ["rate", "lr"])
def test_exponent_without_a_point_is_text_and_is_explained(key: str) -> None:
    message = refusal(f"word: b\n{key}: 1e-3")
    assert message.startswith(f"toy.yaml, line 2: {key}: '{key}' must be float")
    assert "YAML reads 1e-3 as text: write 0.001" in message
    assert read(f"{key}: 1.0e-3") == read(f"{key}: 0.001")


def test_a_quoted_number_is_explained() -> None:
    assert "no quotes" in refusal("count: '4'")


def test_plain_wrong_text_is_not_called_a_number() -> None:
    assert "YAML reads" not in refusal("rate: much")


@pytest.mark.parametrize("word", ["no", "off", "yes", "on"])
def test_words_that_yaml_reads_as_booleans_are_explained(word: str) -> None:
    message = refusal(f"word: {word}")
    assert "line 1" in message
    assert "YAML reads yes, no, on and off as true and false: put the word in quotes" in message
    assert read(f"word: '{word}'").word == word


def test_duplicate_keys_are_refused_with_their_line() -> None:
    assert refusal("count: 2\nrate: 0.1\ncount: 3") == "toy.yaml, line 3: key 'count' stands twice; remove one"
    with pytest.raises(UserError, match=r"^d\.yaml, line 4: key 'b' stands twice"):
        spec.parse_yaml("a:\n  - x\n  - b: 1\n    b: 1\n", "d.yaml")


def test_a_key_that_is_no_text_is_refused() -> None:
    assert refusal("count: 2\n5: 3").startswith("toy.yaml, line 2: key 5 is not text")
    assert "put it in quotes" in refusal("no: 3")


def test_unknown_key_offers_the_nearest_and_says_the_line() -> None:
    assert refusal("count: 2\nrtae: 1") == "toy.yaml, line 2: rtae: unknown key 'rtae'. Did you mean 'rate'?"
    assert "Known: channels, count, flip" in refusal("zzzzzz: 1")


def test_out_of_range_says_file_line_and_key() -> None:
    assert refusal("word: b\n\n# remark\ncount: 12").startswith("toy.yaml, line 4: count: Toy.count must be >= 1, <= 9, not 12")


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: [1, 2", 2), ("a: 1\n\tb: 2", 2), ("a: 1\nb: 'open", 2), ("a: 1\nb: c: d", 2), ("a: 1\n---\nb: 2", 2)],
)
def test_invalid_yaml_says_file_and_line(text: str, line: int) -> None:
    with pytest.raises(UserError, match=rf"^s\.yaml, line {line}: not valid YAML: "):
        spec.parse_yaml(text, "s.yaml")


def test_odd_tags_are_refused_and_nothing_is_constructed() -> None:
    with pytest.raises(UserError, match=r"^s\.yaml, line 1: not valid YAML: "):
        spec.parse_yaml("a: !!python/object/apply:os.getcwd []", "s.yaml")


@pytest.mark.parametrize("value", ["2024-13-45", "0b_", "!!int many", "!!float x"])
def test_a_scalar_that_yaml_cannot_convert_is_a_users_mistake(value: str) -> None:
    with pytest.raises(UserError, match=r"^s\.yaml, line 2: "):
        spec.parse_yaml(f"a: 1\nb: {value}", "s.yaml")


@pytest.mark.parametrize("text", ["a: &loop [*loop]", "a: &x 1\nb: *x", "a: &x {b: 1}\nc: *x"])
def test_aliases_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^s\.yaml, line [12]: not valid YAML: the alias \*(loop|x) is not followed"):
        spec.parse_yaml(text, "s.yaml")


def bomb(levels: int) -> str:
    """Less than 500 bytes that unfold to 9**levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


HUGE = {
    "alias bomb": (bomb(12), "alias"),
    "deep lists": ("- " * 340 + "1", "nested more than 64 deep"),
    "deep flow": ("seeds: " + "[" * 340 + "]" * 340, "nested more than 64 deep"),
    "very deep flow": ("a: " + "[" * 500_000, "nested more than 64 deep"),
    "deep mappings": ("{a: " * 340 + "1" + "}" * 340, "nested more than 64 deep"),
    "deep keys": ("? " * 340 + "1", "is not text"),
    "many values": ("a: [" + "1," * 500_000 + "1]", "more than 100000 values"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(110_000)), "more than 100000 values|characters"),
    "many anchors": ("".join(f"- &a{i} 1\n" for i in range(90_000)) + "- *a7", "alias|characters"),
    "long": ("# " + "x" * 2_000_000, "has 2000002 characters"),
    "sexagesimal": ("a: 1" + ":59" * 200_000, "a value of 600001 characters"),
    "hexadecimal": ("epochs: 0x" + "f" * 3600, "a number of 14400 bits is far too large"),
    "binary": ("epochs: 0b" + "1" * 9000, "a number of 9000 bits is far too large"),
    "sexagesimal number": ("epochs: 1" + ":59" * 3000, "bits is far too large"),
    "timestamp": ("suite: !!timestamp x", "'x' is no timestamp"),
    "timestamp key": ("? !!timestamp x\n: 1", "'x' is no timestamp"),
    "bool": ("suite: !!bool maybe", "'maybe' is no bool"),
    "bool key": ("? !!bool maybe\n: 1", "'maybe' is no bool"),
    "int": ("suite: !!int ''", "'' is no int"),
    "float": ("suite: !!float ''", "'' is no float"),
    "NUL": ("a: \0", "not valid YAML"),
    "half a character": ("a: \ud800", "not valid YAML"),
    "control characters": ('"\\e[2J\\e[31mx": 1\n"\\e[2J\\e[31mx": 2', r"key '\\x1b\[2J\\x1b\[31mx' stands twice"),
    "two documents": ("a: 1\n---\nb: 2", "second document"),
}


@pytest.mark.parametrize("title", HUGE)
def test_odd_and_huge_text_is_refused_with_a_sentence_and_cheaply(title: str) -> None:
    text, reason = HUGE[title]
    start = time.process_time()
    with pytest.raises(UserError, match=reason) as caught:
        spec.parse_yaml(text, "s.yaml")
    assert time.process_time() - start < 5
    assert str(caught.value).startswith("s.yaml")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_bound_that_the_yaml_library_reaches_first_reads_like_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shallow(yaml.SafeLoader):
        """As builds of libyaml with a bound of their own: the parser gives up before we count."""

        def get_event(self) -> yaml.Event:
            raise yaml.parser.ParserError(None, None, "exceeded maximum nesting depth", self.get_mark())

    monkeypatch.setattr(documents, "Loader", Shallow)
    with pytest.raises(UserError, match=r"^s.yaml, line 1: not valid YAML: lists and mappings are nested more than 64 deep$"):
        spec.parse_yaml("a: [[1]]", "s.yaml")


@pytest.mark.parametrize("path", sorted(Path("benchmark_configs").resolve().glob("*.yaml")), ids=lambda path: path.stem)
def test_both_loaders_of_yaml_read_the_same_at_the_same_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = path.read_text(encoding="utf-8") + "z: {q: [1, 'two\n   lines', 3.5e+3, off, ~, 2024-01-02, |-\n  x]}\n"[:60] + "]}\n"
    text = path.read_text(encoding="utf-8") + "zz:\n- 1\n- {a: off, b: [~, 2024-01-02,\n   0x1F]}\n- |\n  text\n  more\n- last\n"
    fast = spec.parse_yaml(text, "s.yaml")
    monkeypatch.setattr(documents, "Loader", yaml.SafeLoader)
    slow = spec.parse_yaml(text, "s.yaml")
    assert fast.data == slow.data == yaml.safe_load(text)
    assert fast.lines == slow.lines


def test_settings_from_no_file_name_no_line() -> None:
    with pytest.raises(UserError, match=r"^settings of 'toy': rtae: unknown key"):
        spec.build(Toy, spec.Document({"rtae": 1}, {}, "settings of 'toy'"), ())


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_yaml_numbers_that_are_not_finite_are_refused(value: str) -> None:
    assert "line 1" in refusal(f"rate: {value}")
    assert "finite" in refusal(f"rate: {value}")


def test_settings_must_be_a_mapping() -> None:
    assert "must be a mapping of settings, not [1, 2]" in refusal("[1, 2]")
    assert read("") == Toy()


def test_an_error_on_a_key_that_is_not_there_falls_back_to_its_parent() -> None:
    document = spec.parse_yaml("x: 1\ntoy:\n  count: 4\n", "o.yaml")
    assert str(document.error(("toy", "missing"), "gone")) == "o.yaml, line 2: toy.missing: gone"


# ----------------------------------------------------------------------------------------------------- fingerprint and seed


def test_fingerprint_does_not_depend_on_key_order() -> None:
    assert spec.fingerprint({"a": 1, "b": {"x": 2.5, "y": [1]}}) == spec.fingerprint({"b": {"y": [1], "x": 2.5}, "a": 1})
    assert read("count: 4\nrate: 0.1") == read("rate: 0.1\ncount: 4")


def test_fingerprint_is_pinned_and_tells_values_apart() -> None:
    assert spec.fingerprint({"a": 1}) == "015abd7f5cc57a2d"
    others = [{"a": 2}, {"a": "1"}, {"b": 1}, {"a": [1]}, {"a": True}, {}]
    assert len({spec.fingerprint(o) for o in [{"a": 1}, *others]}) == 7
    with pytest.raises(ValueError, match="JSON"):
        spec.fingerprint({"a": float("nan")})


def test_seed_is_pinned() -> None:
    assert spec.seed_of("split", {"name": "digits", "size": 16}, 0) == 621513740343820539


def test_seed_is_the_same_in_another_process() -> None:
    code = "from mnp_plugin.core.params import seed_of; print(seed_of('cell', {'b': 1, 'a': [0.5, None]}, 7))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == spec.seed_of("cell", {"a": [0.5, None], "b": 1}, 7)


def test_seeds_of_different_identities_differ_and_fit_63_bits() -> None:
    seeds = [spec.seed_of("victim", {"attack": name}, n) for name in ("badnets", "sig") for n in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= s < 2**63 for s in seeds)
    assert spec.seed_of("a", "b") != spec.seed_of("ab")
    assert spec.seed_of("a", 1) != spec.seed_of("a", "1")


def test_a_plain_mapping_reads_back_to_an_equal_component() -> None:
    toy = Toy(rate=0.25, size=8, layers=(5,), mode="slow")
    assert spec.build(Toy, spec.Document(spec.to_plain(toy), {}, "plain"), ()) == toy

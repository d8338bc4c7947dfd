from __future__ import annotations

import importlib
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mnp_plugin import contracts
from mnp_plugin.cli import app as cli
from mnp_plugin.core import registry
from mnp_plugin.core.declared import Declared, declared
from mnp_plugin.core.errors import UserError
from mnp_plugin.core.registry import Registry, RegistryError

DECORATED = re.compile(r'^@(?P<registry>\w+)\.register\("(?P<name>[\w-]+)"\)\n(?:@.*\n)*class (?P<cls>\w+)', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Gadget(ABC):
    name: ClassVar[str] = ""

    @abstractmethod
    def use(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Lever(Gadget):
    length: int = 1

    def use(self) -> int:
        return self.length


@dataclass(frozen=True, kw_only=True)
class Crank(Gadget):
    turns: list[int] = field(default_factory=list)

    def use(self) -> int:
        return len(self.turns)


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    contracts.attacks.names()
    kept = [(r, dict(r._classes), dict(r._origins), dict(r._declared)) for r in Registry.all]
    everything = list(Registry.all)
    yield
    Registry.all[:] = everything
    for known, classes, origins, promised in kept:
        known._classes, known._origins, known._declared = classes, origins, promised


@pytest.fixture
def gadgets() -> Registry[Gadget]:
    return Registry("gadget", Gadget)  # type: ignore[type-abstract]


def test_register_get_names_origin(gadgets: Registry[Gadget]) -> None:
    assert gadgets.register("lever")(Lever) is Lever
    gadgets.register("crank-2")(Crank)
    assert gadgets.get("lever") is Lever
    assert gadgets.names() == ["crank-2", "lever"]
    assert Lever.name == "lever"
    assert gadgets.origin("lever") == "this session"


@pytest.mark.parametrize("words", [["-c", "{code}"], ["-"]], ids=["python -c", "python -"])
def test_a_class_without_a_file_is_named(words: list[str]) -> None:
    code = """
from mnp_plugin.core.registry import Registry
class Gadget: ...
Registry("gadget", Gadget).register("lever")(Gadget)
"""
    words = [word.format(code=code) for word in words]
    done = subprocess.run([sys.executable, *words], input=code, capture_output=True, text=True, check=False)
    place = "defined interactively" if words[0] == "-c" else "<stdin>"
    message = f"RegistryError: gadget 'lever', __main__.Gadget ({place}): put @dataclass(frozen=True, kw_only=True)"
    assert message in done.stderr


def refusal(known: Registry[Gadget], name: str, cls: Any) -> str:
    with pytest.raises(RegistryError) as caught:
        known.register(name)(cls)
    message = str(caught.value)
    assert f"gadget '{name}'" in message
    assert cls.__qualname__ in message
    assert "test_registry.py" in message
    assert name not in known.names()
    return message


def test_wrong_base_is_refused(gadgets: Registry[Gadget]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Stranger:
        length: int = 1

    assert "must extend" in refusal(gadgets, "stranger", Stranger)
    assert "Gadget" in refusal(gadgets, "stranger", Stranger)


def test_a_function_is_refused(gadgets: Registry[Gadget]) -> None:
    def lever() -> int:
        return 1

    assert "must extend" in refusal(gadgets, "lever", lever)


def test_a_plain_subclass_is_refused(gadgets: Registry[Gadget]) -> None:
    class Plain(Gadget):
        def use(self) -> int:
            return 1

    assert "@dataclass(frozen=True, kw_only=True)" in refusal(gadgets, "plain", Plain)


def test_not_frozen_is_refused(gadgets: Registry[Gadget]) -> None:
    with pytest.raises(TypeError, match="frozen"):  # Python itself refuses this one below a frozen base

        @dataclass(kw_only=True)
        class Loose(Gadget):  # type: ignore[misc]
            def use(self) -> int:
                return 1

    class Base:
        pass

    loose = Registry("gadget", Base)

    @dataclass(kw_only=True)
    class Melting(Base):
        length: int = 1

    with pytest.raises(RegistryError, match=r"frozen=True"):
        loose.register("melting")(Melting)


def test_not_keyword_only_is_refused(gadgets: Registry[Gadget]) -> None:
    @dataclass(frozen=True)
    class Positional(Gadget):
        length: int = 1

        def use(self) -> int:
            return self.length

    assert "kw_only=True" in refusal(gadgets, "positional", Positional)


def test_a_field_without_default_is_refused_by_name(gadgets: Registry[Gadget]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Hungry(Gadget):
        food: int

        def use(self) -> int:
            return self.food

    assert "field 'food' needs a default" in refusal(gadgets, "hungry", Hungry)


def test_an_abstract_method_left_is_refused_by_name(gadgets: Registry[Gadget]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Idle(Gadget):
        length: int = 1

    assert "still abstract, define use" in refusal(gadgets, "idle", Idle)


@pytest.mark.parametrize("name", ["", "Lever", "two words", "a/b", "1st", "a.b"])
def test_bad_names_are_refused(gadgets: Registry[Gadget], name: str) -> None:
    assert "a name is lower-case" in refusal(gadgets, name, Lever)


def test_a_collision_quotes_both_and_keeps_the_first(gadgets: Registry[Gadget]) -> None:
    gadgets.register("thing")(Lever)
    with pytest.raises(RegistryError) as caught:
        gadgets.register("thing")(Crank)
    message = str(caught.value)
    assert "Lever" in message
    assert "Crank" in message
    assert message.count("test_registry.py") == 2
    assert "taken" in message
    assert gadgets.get("thing") is Lever


def test_registering_the_same_class_again_is_allowed(gadgets: Registry[Gadget]) -> None:
    gadgets.register("lever")(Lever)
    gadgets.register("lever")(Lever)
    assert gadgets.names() == ["lever"]


def test_unknown_name_offers_the_nearest(gadgets: Registry[Gadget]) -> None:
    gadgets.register("lever")(Lever)
    with pytest.raises(UserError, match=r"^no gadget is called 'levr'\. Did you mean 'lever'\?"):
        gadgets.get("levr")
    with pytest.raises(UserError, match=r"Known: lever\."):
        gadgets.get("zzz")
    with pytest.raises(UserError, match="no gadget is called 'zzz'"):
        gadgets.origin("zzz")


def test_every_class_that_a_decorator_names_here_is_declared_and_the_other_way_round() -> None:
    """A new method needs its line in mnp_plugin/entry_points.txt; without it, nobody finds it."""
    package = Path(contracts.__file__).parent
    decorated = set()
    for file in package.rglob("*.py"):
        module = ".".join(file.relative_to(package.parent).with_suffix("").parts)
        for found in DECORATED.finditer(file.read_text()):
            decorated.add((found["registry"], found["name"], f"{module}:{found['cls']}"))
    stated = {
        (entry.group.removeprefix("mnp_plugin."), entry.name, entry.value) for entry in declared() if entry.origin == "mnp_plugin"
    }
    assert stated == decorated
    for known in contracts.all_registries:
        for name in known.names():
            doc = known.get(name).__doc__ or ""
            assert (
                Declared(
                    group=known.group, name=name, value=f"{known.get(name).__module__}:{known.get(name).__qualname__}", origin=""
                ).summary()
                == doc.strip().partition("\n")[0]
            )


def test_the_package_brings_what_the_issue_lists() -> None:
    assert {"clean", "badnets", "blended", "sig", "trojan", "wanet"} <= set(contracts.attacks.names())
    assert {"none", "ft", "fp", "nad", "anp", "mnp"} <= set(contracts.defenses.names())
    assert {"digits", "cifar10", "imagenette", "imagefolder"} <= set(contracts.datasets.names())
    assert {"smallnet", "vgg19-bn", "mobilenet-v3-large", "torchvision"} <= set(contracts.nets.names())


def test_origin_of_a_built_in_does_not_depend_on_who_imports_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (contracts.defenses._classes, contracts.defenses._origins):
        known.pop("none", None)
    monkeypatch.delitem(sys.modules, "mnp_plugin.defenses.none", raising=False)
    monkeypatch.setattr(registry, "_loaded", False)
    importlib.import_module("mnp_plugin.defenses.none")
    assert contracts.defenses.origin("none") == contracts.defenses.origin("mnp")
    assert contracts.defenses.origin("none") == "mnp_plugin"


# ---------------------------------------------------------------------------------------------------------------- plugins

GOOD = """
from dataclasses import dataclass
from mnp_plugin.contracts import Defense, Purified, defenses

@defenses.register("{name}")
@dataclass(frozen=True, kw_only=True)
class Sample(Defense):
    def purify(self, view, tools):
        return Purified(model=view.model)
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    modules: list[str] = []

    def put(module: str, source: str, point: str, group: str = "mnp_plugin") -> None:
        # One folder each, searched in front of the ones before: the last plugin installed is the first one loaded.
        site = tmp_path / module
        site.mkdir()
        (site / f"{module}.py").write_text(source)
        modules.append(module)
        info = site / f"{module}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{point if '=' in point else f'{point} = {module}'}\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setattr(registry, "_loaded", False)

    monkeypatch.setattr(registry, "BROKEN", {})
    yield put
    for module in modules:
        sys.modules.pop(module, None)


def test_an_entry_point_brings_its_classes(install: Install) -> None:
    install("sample_good", GOOD.format(name="sample-good"), "good")
    assert "sample-good" in contracts.defenses.names()
    assert contracts.defenses.origin("sample-good") == "sample_good 1.5"
    assert contracts.defenses.origin("ft") == contracts.defenses.origin("mnp")
    assert registry.BROKEN == {}


def test_a_broken_plugin_is_listed_with_its_reason_and_stops_nothing(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("sample_after", GOOD.format(name="sample-after"), "zz")
    install("sample_broken", GOOD.format(name="half-there") + "\nraise RuntimeError('no such card')\n", "mm")
    install("sample_before", GOOD.format(name="sample-before"), "aa")
    assert {"sample-after", "sample-before", "ft"} <= set(contracts.defenses.names())
    assert "half-there" not in contracts.defenses.names()
    assert registry.BROKEN == {"mm": "sample_broken 1.5, module 'sample_broken': RuntimeError: no such card"}
    with pytest.raises(UserError) as caught:
        contracts.defenses.get("half-there")
    assert "no defense is called 'half-there'" in str(caught.value)
    assert "Plugin 'mm' is broken: sample_broken 1.5" in str(caught.value)
    assert cli.main(["list"]) == 0
    assert "broken plugin 'mm': sample_broken 1.5, module 'sample_broken': RuntimeError: no such card" in capsys.readouterr().out
    assert Registry._loading == "this session"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import there_is_no_such_module_anywhere\n", "ModuleNotFoundError"),
        (GOOD.format(name="ft"), "RegistryError"),
        ("import sys\nsys.exit('this plugin needs another operating system')\n", "SystemExit"),
    ],
    ids=["syntax", "import", "collision", "exit"],
)
def test_every_way_to_break_is_caught(install: Install, source: str, reason: str) -> None:
    install("sample_ill", source, "ill")
    assert "ft" in contracts.defenses.names()
    assert contracts.defenses.get("ft").__module__ == "mnp_plugin.defenses.ft"
    assert reason in registry.BROKEN["ill"]


def test_a_missing_module_is_listed(install: Install, tmp_path: Path) -> None:
    install("sample_gone", "", "gone")
    (tmp_path / "sample_gone" / "sample_gone.py").unlink()
    assert "ft" in contracts.defenses.names()
    assert "ModuleNotFoundError" in registry.BROKEN["gone"]


def test_two_broken_plugins_of_one_name_are_both_told(install: Install) -> None:
    install("sample_one", "raise ValueError('first')", "plugin")
    install("sample_two", "raise ValueError('second')", "plugin")
    contracts.defenses.names()
    told = " ".join(f"{k} {v}" for k, v in registry.BROKEN.items())
    assert "first" in told
    assert "second" in told


def test_a_broken_plugin_does_not_take_a_sound_one_that_it_imports_with_it(install: Install) -> None:
    install("sample_sound", GOOD.format(name="sample-sound"), "zz-sound")
    install("sample_user", "import sample_sound\nraise RuntimeError('my own fault')\n", "aa-user")
    assert "sample-sound" in contracts.defenses.names()
    assert list(registry.BROKEN) == ["aa-user"]
    assert contracts.defenses.origin("sample-sound") == "sample_sound 1.5"


def test_a_class_named_by_an_entry_point_is_imported_when_it_is_asked_for(install: Install) -> None:
    install("sample_lazy", GOOD.format(name="sample-lazy"), "sample-lazy = sample_lazy:Sample", "mnp_plugin.defenses")
    assert "sample-lazy" in contracts.defenses.names()
    assert contracts.defenses.origin("sample-lazy") == "sample_lazy 1.5"
    assert contracts.defenses.summary("sample-lazy") == ""
    assert "sample_lazy" not in sys.modules
    assert contracts.defenses.get("sample-lazy").__module__ == "sample_lazy"
    assert contracts.defenses.origin("sample-lazy") == "sample_lazy 1.5"
    assert registry.BROKEN == {}


def test_the_class_of_an_entry_point_needs_no_decorator(install: Install) -> None:
    source = GOOD.replace('@defenses.register("{name}")\n', "").replace(
        "class Sample(Defense):", 'class Sample(Defense):\n    "Says so."'
    )
    install("sample_bare", source, "sample-bare = sample_bare:Sample", "mnp_plugin.defenses")
    assert contracts.defenses.summary("sample-bare") == "Says so."
    found = contracts.defenses.get("sample-bare")
    assert found.name == "sample-bare"
    assert found().name == "sample-bare"


@pytest.mark.parametrize(
    ("source", "point", "reason"),
    [
        ("import there_is_no_such_module_anywhere\n", "sample-ill = sample_ill:Sample", "ModuleNotFoundError"),
        ("x = 1\n", "sample-ill = sample_ill:Sample", "AttributeError"),
        ("class Sample: pass\n", "sample-ill = sample_ill:Sample", "must extend mnp_plugin.core.defense.Defense"),
        ("raise RuntimeError('no licence')\n", "sample-ill = sample_ill:Sample", "RuntimeError: no licence"),
    ],
    ids=["import", "no class", "wrong base", "raises"],
)
def test_a_class_that_cannot_be_imported_is_told_when_it_is_asked_for(
    install: Install, source: str, point: str, reason: str
) -> None:
    install("sample_ill", source, point, "mnp_plugin.defenses")
    assert "ft" in contracts.defenses.names()
    with pytest.raises(UserError) as caught:
        contracts.defenses.get("sample-ill")
    assert "defense 'sample-ill' cannot be loaded: sample_ill 1.5, class 'sample_ill:Sample': " in str(caught.value)
    assert reason in str(caught.value)
    assert reason in registry.BROKEN["sample-ill"]
    assert "sample-ill" not in contracts.defenses.names()
    with pytest.raises(UserError, match="Plugin 'sample-ill' is broken"):
        contracts.defenses.get("sample-ill")


@pytest.mark.parametrize(
    ("point", "group", "reason"),
    [
        ("ft = sample_ill:Sample", "mnp_plugin.defenses", "the name is taken by mnp_plugin.defenses.ft:FineTuning of mnp_plugin"),
        ("ft2 = sample_ill", "mnp_plugin.defenses", "write ft2 = module:Class"),
        ("Ft = sample_ill:Sample", "mnp_plugin.defenses", "a name is lower-case"),
        (
            "x = sample_ill:Sample",
            "mnp_plugin.defences",
            "no group is called 'mnp_plugin.defences'. Did you mean 'mnp_plugin.defenses'",
        ),
    ],
)
def test_an_entry_point_that_cannot_be_right_is_listed_unseen(install: Install, point: str, group: str, reason: str) -> None:
    install("sample_ill", GOOD.format(name="x"), point, group)
    assert "ft" in contracts.defenses.names()
    assert [reason in text for text in registry.BROKEN.values()] == [True]
    assert "sample_ill" not in sys.modules
    assert contracts.defenses.get("ft").__module__ == "mnp_plugin.defenses.ft"


def test_a_broken_plugin_leaves_the_methods_of_the_package_as_they_are(install: Install) -> None:
    before = contracts.defenses.get("ft")
    install("sample_borrower", "import mnp_plugin.defenses.nad\nraise RuntimeError('mine')\n", "borrower")
    assert contracts.defenses.get("nad") is sys.modules["mnp_plugin.defenses.nad"].NAD
    assert contracts.defenses.get("ft") is before
    assert contracts.defenses.origin("nad") == "mnp_plugin"

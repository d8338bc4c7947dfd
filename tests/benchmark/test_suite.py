from __future__ import annotations

import re
from pathlib import Path

import pytest

from mnp_plugin.benchmark.plan import further_jobs
from mnp_plugin.benchmark.suite import Suite
from mnp_plugin.benchmark.suite_file import REQUIRED, load_suite, parse_suite
from mnp_plugin.contracts import defenses, detectors
from mnp_plugin.core.errors import UserError

TEXT = """\
suite: tiny
dataset:
  name: digits
  size: 16
net:
  name: smallnet
  width: 4
recipe:
  epochs: 2
  lr: 0.1
clean_budget:
  images: 40
gate:
  asr: 0.5
seeds: [0, 1]
attacks:
  - clean
  - name: badnets
    poison_ratio: 0.1
  - name: badnets
    label: bad-white
    pattern: white
defenses:
  - none
  - name: ft
    epochs: 3
"""


def parse(text: str) -> Suite:
    return parse_suite(text, "s.yaml", default_name="s")


def test_a_good_file_resolves_to_its_cells_in_order(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    suite = load_suite(path)
    assert suite.name == "tiny"
    assert suite.gate.asr == 0.5
    found = [(c.victim.seed, c.victim.attack.label, c.defense.label) for c in suite.cells()]
    assert found == [(s, a, d) for s in (0, 1) for a in ("clean", "badnets", "bad-white") for d in ("none", "ft")]
    cell = list(suite.cells())[-1]
    assert cell.victim.title == "digits/smallnet bad-white seed 1"
    assert cell.file_name == f"bad-white-ft-s1-{cell.fingerprint}.json"
    assert cell.victim.attack.component.name == "badnets"
    assert cell.defense.component.name == "ft"
    assert (cell.victim.dataset.component.name, cell.victim.net.component.name) == ("digits", "smallnet")
    plain = cell.plain()
    assert plain["attack"]["pattern"] == "white"
    assert plain["attack"]["poison_ratio"] == 0.1
    assert plain["defense"]["epochs"] == 3
    assert plain["defense"]["lr"] == 0.01
    assert plain["recipe"]["epochs"] == 2
    assert plain["recipe"]["momentum"] == 0.9
    assert plain["net"]["width"] == 4
    assert plain["dataset"]["size"] == 16
    assert plain["seed"] == 1


def test_defaults_fill_what_is_left_out() -> None:
    short = "dataset: digits\nnet: smallnet\nclean_budget: {percent: 5}\nattacks: [badnets]\ndefenses: [mnp]\n"
    suite = parse(short)
    assert suite.name == "s"
    assert suite.gate.asr == 0.8
    (cell,) = suite.cells()
    assert cell.victim.seed == 0
    assert cell.victim.recipe.epochs == 30


def test_identity_covers_settings_and_not_labels() -> None:
    prints = [c.fingerprint for c in parse(TEXT).cells()]
    assert len(set(prints)) == len(prints) == 12
    assert [c.fingerprint for c in parse(TEXT).cells()] == prints
    renamed = parse(TEXT.replace("label: bad-white", "label: patch"))
    assert [c.fingerprint for c in renamed.cells()] == prints
    for old, new in (("width: 4", "width: 5"), ("lr: 0.1", "lr: 0.2"), ("images: 40", "images: 41"), ("size: 16", "size: 8")):
        assert not set(prints) & {c.fingerprint for c in parse(TEXT.replace(old, new)).cells()}
    only_defense = {c.fingerprint for c in parse(TEXT.replace("epochs: 3", "epochs: 4")).cells()}
    assert len(only_defense & set(prints)) == 6
    assert {c.fingerprint for c in parse(TEXT.replace("asr: 0.5", "asr: 0.6")).cells()} == set(prints)


def test_the_suites_that_ship_resolve() -> None:
    folder = Path(__file__).parents[2] / "benchmark_configs"
    files = sorted(folder.glob("*.yaml"))
    assert folder / "digits.yaml" in files
    for file in files:
        assert list(load_suite(file).cells())


def test_the_leaderboard_is_rehearsed_whole_and_holds_every_defense_and_detector() -> None:
    folder = Path(__file__).parents[2] / "benchmark_configs"
    whole, rehearsal = (load_suite(folder / f"{name}.yaml") for name in ("cifar10", "cifar10_rehearsal"))
    assert [v.attack.label for v in whole.victims] == [v.attack.label for v in rehearsal.victims]
    assert [d.label for d in whole.defenses] == [d.label for d in rehearsal.defenses]
    assert [d.label for d in whole.detectors] == [d.label for d in rehearsal.detectors]
    for registry, entries in ((defenses, whole.defenses), (detectors, whole.detectors)):
        own = {name for name in registry.names() if registry.origin(name) == "mnp_plugin"}
        assert own == {entry.component.name for entry in entries}


BAD = [
    ("suite: tiny", "siute: tiny", 1, "unknown key 'siute'. Did you mean 'suite'?"),
    ("suite: tiny", "suite: my suite", 1, "must be a plain name"),
    ("suite: tiny", "suite: a/b", 1, "must be a plain name"),
    ("suite: tiny", "suite: 5", 1, "must be a plain name"),
    ("suite: tiny", "suite: no", 1, "must be a plain name"),
    ("suite: tiny", f"suite: {'x' * 81}", 1, "suite: must be at most 80 bytes long, not 81"),
    ("suite: tiny", "suite: ..", 1, "must be a plain name"),
    ("suite: tiny", "suite: .", 1, "must be a plain name"),
    ("  name: digits", "  name: digit", 3, "no dataset is called 'digit'. Did you mean 'digits'?"),
    ("  name: digits", "  name: 5", 2, "must be the name of a dataset"),
    ("  size: 16", "  sise: 16", 4, "unknown key 'sise'. Did you mean 'size'?"),
    ("  size: 16", "  size: 7", 4, "must be >= 8, <= 64, not 7"),
    ("  size: 16", "  channels: 2", 4, "must be one of 1, 3, not 2"),
    ("  name: smallnet", "  name: smalnet", 6, "no net is called 'smalnet'. Did you mean 'smallnet'?"),
    ("  name: smallnet\n  width: 4", "  name: torchvision\n  arch: resnet81", 7, "no classifier 'resnet81'. Did you mean"),
    ("  width: 4", "  width: 0", 7, "must be >= 1, <= 256, not 0"),
    ("  width: 4", "  width: 4.5", 7, "must be int, not 4.5"),
    ("  width: 4", "  width: yes", 7, "must be int, not True"),
    ("  width: 4", "  width: wide", 7, "must be int, not 'wide'"),
    ("  epochs: 2", "  epocs: 2", 9, "unknown key 'epocs'. Did you mean 'epochs'?"),
    ("  epochs: 2", "  epochs: 2.0", 9, "must be int, not 2.0"),
    ("  lr: 0.1", "  lr: 1e-3", 10, "YAML reads 1e-3 as text: write 0.001"),
    ("  lr: 0.1", "  lr: '0.1'", 10, "no quotes"),
    ("  lr: 0.1", "  lr: 0", 10, "must be > 0, not 0"),
    ("  lr: 0.1", "  lr: .nan", 10, "finite"),
    ("  lr: 0.1", "  lr: .inf", 10, "finite"),
    ("  lr: 0.1", "  lr: null", 10, "must be float, not None"),
    ("  lr: 0.1", "  epochs: 3", 10, "key 'epochs' stands twice"),
    ("  lr: 0.1", "  schedule: linaer", 10, "Did you mean 'linear'?"),
    ("  lr: 0.1", "  flip: 'no'", 10, "must be true or false, not 'no'"),
    ("  lr: 0.1", "  precision: off", 10, "must be one of 'auto', 'float32', 'bfloat16', not False"),
    ("  images: 40", "  image: 40", 12, "unknown key 'image'. Did you mean 'images'?"),
    ("  images: 40", "  images: 1", 12, "must be >= 2, not 1"),
    ("  images: 40", "  percent: 80", 12, "must be > 0, <= 50, not 80"),
    ("  images: 40", "  validation: 0.2", 11, "give exactly one amount, not none"),
    ("  images: 40", "  images: 40\n  percent: 5", 12, "give exactly one amount, not images, percent"),
    ("  images: 40", "  images: 40\n  source: heldout", 13, "Did you mean 'held-out'?"),
    ("clean_budget:\n  images: 40", "clean_budget: 40", 11, "must be a mapping of settings, not 40"),
    ("  asr: 0.5", "  asr: 1.5", 14, "must be >= 0, <= 1, not 1.5"),
    ("  asr: 0.5", "  acc: 0.5", 14, "unknown key 'acc'"),
    ("seeds: [0, 1]", "seeds: 3", 15, "must be a list of whole numbers"),
    ("seeds: [0, 1]", "seeds: []", 15, "must be a list of whole numbers"),
    ("seeds: [0, 1]", "seeds: [0, -1]", 15, "must be a list of whole numbers"),
    ("seeds: [0, 1]", "seeds: [0, 1.0]", 15, "must be a list of whole numbers"),
    ("seeds: [0, 1]", "seeds: [yes]", 15, "must be a list of whole numbers"),
    ("seeds: [0, 1]", "seeds: [a]", 15, "must be a list of whole numbers"),
    ("seeds: [0, 1]", "seeds:", 15, "must be a list of whole numbers"),
    ("seeds: [0, 1]", "seeds: [2, 0, 2]", 15, "a seed stands twice"),
    ("seeds: [0, 1]", "seeds: [0]\nseeds: [1]", 16, "key 'seeds' stands twice"),
    ("  - clean", "  - claen", 17, "no attack is called 'claen'. Did you mean 'clean'?"),
    ("  - clean", "  - no", 17, "not False (put the word in quotes)"),
    ("  - clean", "  - 5", 17, "must be the name of an attack"),
    ("  - clean", "  - [clean]", 17, "must be the name of an attack"),
    ("  - clean", "  - badnets", 18, "'badnets' stands twice"),
    ("    poison_ratio: 0.1", "    poison_ratio: 0", 19, "must be > 0, <= 1, not 0"),
    ("    poison_ratio: 0.1", "    poison_ratio: 10%", 19, "must be float, not '10%'"),
    ("    poison_ratio: 0.1", "    poisonratio: 0.1", 19, "Did you mean 'poison_ratio'?"),
    ("    poison_ratio: 0.1", "    target: -1", 19, "must be >= 0, not -1"),
    ("    poison_ratio: 0.1", "    size: 0", 19, "must be >= 1, not 0"),
    ("    label: bad-white", "    label: badnets", 20, "'badnets' stands twice"),
    ("    label: bad-white", "    label: a/b", 21, "must be letters, digits"),
    ("    label: bad-white", f"    label: {'é' * 41}", 21, "label: must be at most 80 bytes long, not 82"),
    ("    label: bad-white", "    label: ''", 21, "must be letters, digits"),
    ("    label: bad-white", "    label: no", 21, "must be letters, digits"),
    ("    label: bad-white", "    label: clean2\n    name: sig", 22, "key 'name' stands twice"),
    ("    pattern: white", "    pattern: whte", 22, "Did you mean 'white'?"),
    ("  - none", "  -", 24, "must be the name of a defense, not None"),
    ("  - none", "  - anpp", 24, "no defense is called 'anpp'. Did you mean 'anp'?"),
    ("  - none", "  - badnets", 24, "no defense is called 'badnets'"),
    ("  - none", "  - ft", 25, "'ft' stands twice"),
    ("    epochs: 3", "    epoch: 3", 26, "unknown key 'epoch'. Did you mean 'epochs'?"),
    ("    epochs: 3", "    lr: 1e-2", 26, "write 0.01"),
    ("    epochs: 3", "    epochs: three", 26, "must be int, not 'three'"),
    ("defenses:\n  - none\n", "defenses:\n  none: {}\nother:\n", 25, "unknown key 'other'"),
]


@pytest.mark.parametrize(("old", "new", "line", "fragment"), BAD, ids=[f"{new.strip()[:60]}-{line}" for _, new, line, _ in BAD])
def test_bad_input_names_file_and_line(tmp_path: Path, old: str, new: str, line: int, fragment: str) -> None:
    assert TEXT.count(old) == 1
    path = tmp_path / "bad.yaml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: "), message
    assert fragment in message


@pytest.mark.parametrize("old", ["  lr: 0.1", "seeds: [0, 1]", "  - clean"])
@pytest.mark.parametrize("new", ["  lr: [0.1", "\tlr: 0.1", "  lr: 'open", "  lr: a: b", "  lr: @x"])
def test_invalid_yaml_names_file_and_line(old: str, new: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(TEXT.replace(old, new))
    found = re.match(r"^s\.yaml, line (\d+): not valid YAML: ", str(caught.value))
    assert found
    assert int(found[1]) >= TEXT[: TEXT.index(old)].count("\n") + 1


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key: str) -> None:
    text = re.sub(rf"^{key}:.*\n(?: .*\n)*", "", TEXT, flags=re.M)
    assert text != TEXT
    with pytest.raises(UserError, match=rf"^s\.yaml, line 1: the key '{key}' is missing"):
        parse(text)


@pytest.mark.parametrize("key", ["attacks", "defenses"])
@pytest.mark.parametrize("value", ["[]", "ft", "", "{name: ft}", "3"])
def test_rows_and_columns_are_lists(key: str, value: str) -> None:
    text = re.sub(rf"^{key}:.*\n(?: .*\n)*", f"{key}: {value}\n", TEXT, flags=re.M)
    with pytest.raises(UserError, match=rf"^s\.yaml, line \d+: {key}: must be a list of "):
        parse(text)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "# nothing\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^s\.yaml, line 1: a suite is a mapping with the keys suite, dataset"):
        parse(text)


@pytest.mark.parametrize(("old", "new"), [("label: bad-white", "label: clean"), ("- none", "- {name: anp, label: none}")])
def test_labels_that_tables_give_a_meaning_to_cannot_be_lent(old: str, new: str) -> None:
    # Tables take the attack 'clean' for the unattacked model and the defense 'none' for no defense, by their labels.
    with pytest.raises(UserError, match="label"):
        parse(TEXT.replace("  - clean\n", "").replace(old, new))


def test_a_missing_file_offers_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_text(TEXT)
    with pytest.raises(UserError, match=r"no suite file .*digit\.yaml.*Did you mean '.*digits\.yaml'\?"):
        load_suite(tmp_path / "digit.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match=r"no suite file .*folder\.yaml\. Did you mean '.*digits\.yaml'"):
        load_suite(tmp_path / "folder.yaml")
    with pytest.raises(UserError, match="no suite file"):
        load_suite(tmp_path / "nowhere" / "x.yaml")
    with pytest.raises(UserError, match="no suite file"):
        load_suite(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00suite")
    with pytest.raises(UserError, match="not UTF-8"):
        load_suite(path)


def test_a_file_far_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(2**36)  # takes no room on the disk
    with pytest.raises(UserError, match=r"x\.yaml has 68719476736 bytes, far more than settings need"):
        load_suite(path)


def test_the_longest_names_make_files_that_can_be_written(tmp_path: Path) -> None:
    text = TEXT.replace("suite: tiny", f"suite: {'s' * 80}").replace("label: bad-white", f"label: {'a' * 80}")
    suite = parse(text.replace("  - none", f"  - {{name: fp, label: {'d' * 80}}}") + "trials: all\n")
    names = [job.file_name for job in further_jobs(suite, suite.cells())] + [cell.file_name for cell in suite.cells()]
    for name in names:
        (tmp_path / f".{name}.abcdefgh").write_text("as while it is written")
    assert max(map(len, names)) > 180


def test_an_attack_may_change_the_recipe_for_itself() -> None:
    own = TEXT.replace("    poison_ratio: 0.1\n", "    poison_ratio: 0.1\n    recipe: {epochs: 5, crop: 2}\n")
    clean, badnets, white = parse(own).victims[:3]
    assert (badnets.recipe.epochs, badnets.recipe.crop, badnets.recipe.lr) == (5, 2, 0.1)
    assert clean.recipe == white.recipe == parse(TEXT).victims[0].recipe
    assert parse(TEXT).victims[0].fingerprint == clean.fingerprint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("recipe: {epoch: 5}", r"s\.yaml, line 20: attacks\.1\.recipe\.epoch: unknown key 'epoch'\. Did you mean 'epochs'"),
        ("recipe: fast", r"line 20: attacks\.1\.recipe: must be a mapping of settings, not 'fast'"),
        ("recipe: {small_epochs: 2}", r"line \d+: attacks\.1\.recipe\.small_epochs: .*must be below epochs \(2\)"),
    ],
)
def test_a_recipe_of_one_attack_is_checked(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(TEXT.replace("    poison_ratio: 0.1\n", f"    poison_ratio: 0.1\n    {line}\n"))


def test_a_list_of_seeds_without_end_makes_no_endless_plan() -> None:
    with pytest.raises(UserError, match="seeds: has 5000 seeds, more than the 1000"):
        parse(TEXT.replace("seeds: [0, 1]", f"seeds: {list(range(5000))}"))


def test_a_mistyped_number_of_draws_makes_no_endless_plan() -> None:
    with pytest.raises(UserError, match="draws: must be a whole number from 1 to 1000, not 1000000000"):
        parse(f"{TEXT}draws: 1000000000\n")

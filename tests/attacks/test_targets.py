"""One target, any target, several targets; which images count; what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mnp_plugin.attacks.badnets import BadNets
from mnp_plugin.attacks.lc import LabelConsistent
from mnp_plugin.attacks.sig import Sig
from mnp_plugin.attacks.wanet import WaNet
from mnp_plugin.benchmark.stages import check_victim, poison, poison_candidates
from mnp_plugin.benchmark.suite import Entry, VictimSpec
from mnp_plugin.benchmark.suite_file import parse_suite
from mnp_plugin.contracts import Attack, AttackContext, ImageData, Images, Recipe, attacks
from mnp_plugin.core import params as spec
from mnp_plugin.core.errors import UserError
from mnp_plugin.data.digits import Digits
from mnp_plugin.data.split import CleanBudget
from mnp_plugin.nets.small import SmallNet

NONE = torch.empty(0, dtype=torch.int64)
RATIOS = [0.1, 0.05, 0.01, 0.005, 0.001]
SUITE = "dataset: digits\nnet: smallnet\nclean_budget: {images: 40}\ndefenses: [none]\n"


def victim(attack: Attack) -> VictimSpec:
    return VictimSpec(
        dataset=Entry("digits", Digits(size=16)),
        net=Entry("smallnet", SmallNet(width=1)),
        recipe=Recipe(epochs=1, batch_size=64, crop=1, flip=False, precision="float32"),
        budget=CleanBudget(images=20),
        attack=Entry("attack", attack),
        seed=0,
    )


def images(count: int = 20, classes: int = 4) -> Images:
    x = torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
    return Images(x, torch.arange(count) % classes)


def test_several_targets_share_the_classes_out() -> None:
    attack = BadNets(target=[3, 1])
    y = torch.tensor([0, 1, 2, 3, 4, 5])
    assert attack.attack_labels(y, 6).tolist() == [3, 1, 3, 1, 3, 1]
    assert attack.counted(y).tolist() == [True, False, True, True, True, True], "class 1 is to stay class 1"
    three = BadNets(target=[0, 5, 2])
    assert three.attack_labels(y, 6).tolist() == [0, 5, 2, 0, 5, 2]
    assert three.counted(y).tolist() == [False, True, False, True, True, True]


def test_several_targets_poison_and_are_measured_by_the_same_rule() -> None:
    data, attack = images(), BadNets(target=[3, 1])
    tools = AttackContext(device=torch.device("cpu"), generator=torch.Generator(), recipe=Recipe(), fresh_net=torch.nn.Identity)
    poisoned = poison(attack, data, torch.tensor([0, 1, 6, 7]), NONE, {}, 4, tools)
    assert poisoned.y[[0, 1, 6, 7]].tolist() == [3, 1, 3, 1]
    triggered = attack.triggered(data, {}, 4)
    assert triggered.y_true.tolist() == [0, 2, 3] * 5
    assert triggered.y_attack.tolist() == [3, 3, 1] * 5
    new_x, new_y = (
        WaNet(target=[3, 1], poison_ratio=0.5)
        .training_hook(WaNet().prepare(data, tools), 4, tools)
        .batch(data.pixels(), data.y, torch.nn.Identity(), 0.0)
    )
    assert new_y[:10].tolist() == [3, 1] * 5
    assert len(new_x) == 20


def test_a_single_target_keeps_its_identity() -> None:
    plain = spec.to_plain(BadNets())
    assert plain["target"] == 0
    assert type(plain["target"]) is int
    assert BadNets(target=[4]) == BadNets(target=4)
    assert spec.fingerprint(spec.to_plain(BadNets(target=[4]))) == spec.fingerprint(spec.to_plain(BadNets(target=4)))
    several = [spec.fingerprint(spec.to_plain(BadNets(target=t))) for t in ([1, 3], [3, 1], 1, 3)]
    assert len(set(several)) == 4


def test_fingerprint_of_the_default_attack_is_that_of_the_first_release() -> None:
    """Records of before there were several targets still belong to their cells."""
    assert spec.fingerprint(spec.to_plain(BadNets())) == "676177dca19f0095"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": []}, "not an empty list"),
        ({"target": [0, -1]}, "must be >= 0, not -1"),
        ({"target": [0, 1.5]}, "must be int or list of int"),
        ({"target": True}, "must be int or list of int"),
        ({"target": "0"}, "must be int or list of int"),
        ({"target": [0, 1], "label_mode": "all2all"}, "must be one class"),
    ],
)
def test_targets_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"BadNets\.target .*{message}"):
        BadNets(**settings)


@pytest.mark.parametrize("attack", [Sig, LabelConsistent])
def test_clean_label_attacks_take_one_target(attack: type[Attack]) -> None:
    with pytest.raises(UserError, match="must be one class: labels stay"):
        attack(target=[0, 1])
    assert attack(target=[2]).targets == (2,)


def test_targets_in_a_suite() -> None:
    suite = parse_suite(SUITE + "attacks: [{name: badnets, label: two, target: [1, 3]}]\n", "s.yaml", "s")
    (entry,) = {v.attack.label: v.attack for v in suite.victims}.values()
    assert entry.component.targets == (1, 3)
    assert entry.plain()["target"] == [1, 3]
    with pytest.raises(UserError, match=r"s\.yaml, line 5: .*target.*int or list of int"):
        parse_suite(SUITE + "attacks: [{name: badnets, target: [1, x]}]\n", "s.yaml", "s")


def test_a_target_outside_the_classes_is_refused_before_training(digits16: ImageData) -> None:
    for target in (10, [0, 10]):
        with pytest.raises(UserError, match=r"target 10 is outside the classes 0\.\.9"):
            check_victim(victim(BadNets(target=target)), digits16)


@pytest.mark.parametrize("target", range(10))
def test_any_class_can_be_the_target(digits16: ImageData, target: int) -> None:
    for name in ("badnets", "sig", "wanet"):
        attack = attacks.get(name)(target=target, poison_ratio=0.5)
        check_victim(victim(attack), digits16)
        counted = attack.counted(digits16.test.y)
        assert torch.equal(counted, digits16.test.y != target)
        assert attack.attack_labels(digits16.test.y, 10).unique().tolist() == [target]


# ------------------------------------------------------------------------------------------------------------- how many


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ["badnets", "lf", "ssba", "ftrojan", "trojannn", "adaptive_blend"])
def test_poison_ratio_counts_over_all_images(name: str, ratio: float) -> None:
    pool, count = poison_candidates(attacks.get(name)(poison_ratio=ratio), torch.arange(5000) % 10)
    assert (len(pool), count) == (5000, round(5000 * ratio))


@pytest.mark.parametrize("ratio", [0.999, 0.8, *RATIOS])
def test_poison_ratio_of_a_clean_label_attack_counts_within_the_class_and_never_takes_all_of_it(ratio: float) -> None:
    y = torch.arange(10_000) % 10
    pool, count = poison_candidates(LabelConsistent(poison_ratio=ratio, target=7), y)
    assert bool((y[pool] == 7).all())
    assert len(pool) == 1000
    assert count == round(1000 * ratio) < len(pool)


def test_lc_refuses_to_alter_the_whole_class() -> None:
    with pytest.raises(UserError, match="must be below 1"):
        LabelConsistent(poison_ratio=1.0)
    with pytest.raises(UserError, match="leaves no clean image of class 0"):
        poison_candidates(LabelConsistent(poison_ratio=0.99), torch.arange(100) % 10)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ["wanet", "input_aware", "bpp", "lira"])
def test_every_ratio_is_open_to_attacks_that_control_training(name: str, ratio: float, digits16: ImageData) -> None:
    many = ImageData(
        Images(digits16.train.x.repeat(3, 1, 1, 1), digits16.train.y.repeat(3)),
        digits16.test,
        digits16.classes,
        digits16.mean,
        digits16.std,
    )
    check_victim(victim(attacks.get(name)(poison_ratio=ratio)), many)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"poison_ratio": 0.01, "cover": 0.001}, "4 poisoned and 0 cover images of 380"),
        ({"poison_ratio": 0.9, "cover": 0.2}, "342 poisoned and 76 cover images of 380"),
        ({"poison_ratio": 0.001}, "poison_ratio 0.001 of 380 images is none"),
    ],
)
def test_cover_images_that_do_not_come_out_are_refused(settings: dict[str, float], message: str, digits16: ImageData) -> None:
    with pytest.raises(UserError, match=message):
        check_victim(victim(attacks.get("adaptive_blend")(**settings)), digits16)

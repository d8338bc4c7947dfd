"""Attacks that learn or optimise their trigger, on real digits and a net that knows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnp_plugin.attacks.adaptive_blend import AdaptiveBlend
from mnp_plugin.attacks.lc import LabelConsistent
from mnp_plugin.attacks.lf import LowFrequency
from mnp_plugin.attacks.ssba import Ssba
from mnp_plugin.attacks.trojannn import TrojanNN
from mnp_plugin.benchmark.stages import poison, with_assets
from mnp_plugin.contracts import AttackContext, ImageData, Images, MethodError, Recipe, State
from mnp_plugin.evaluation.predict import accuracy
from mnp_plugin.training.source_models import AdversarialTraining, features, head_of, pgd, required_robust_net, robust_net

MakeTools = Callable[..., AttackContext]
NONE = torch.empty(0, dtype=torch.int64)


def unfilled(model: nn.Module) -> bool:
    return all(p.grad is None for p in model.parameters())


# --------------------------------------------------------------------------------------------------- PGD and robust nets


def test_pgd_stays_in_its_ball_and_in_range_and_makes_images_hard(digits16: ImageData, source: nn.Module) -> None:
    x, y = digits16.test.pixels(), digits16.test.y
    hard = pgd(source, x, y, eps=0.2, step=0.05, steps=10)
    assert float((hard - x).abs().max()) <= 0.2 + 1e-6
    assert 0 <= float(hard.min()) <= float(hard.max()) <= 1
    assert not hard.requires_grad
    before, after = (float((source(z).argmax(1) == y).float().mean()) for z in (x, hard))
    assert before > 0.8
    assert after < before - 0.5
    assert unfilled(source), "PGD left gradients in the net"
    assert torch.equal(hard, pgd(source, x, y, eps=0.2, step=0.05, steps=10)), "without a random start it is repeatable"


def test_pgd_with_a_random_start_stays_in_its_ball(digits16: ImageData, source: nn.Module) -> None:
    x, y = digits16.test.pixels()[:20], digits16.test.y[:20]
    first, second = (pgd(source, x, y, eps=0.1, step=0.02, steps=2, start=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for made in (first, second):
        assert float((made - x).abs().max()) <= 0.1 + 1e-6
        assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert not torch.equal(first, second)


def test_adversarial_training_leaves_gradients_mode_and_statistics(digits16: ImageData, make_tools: MakeTools) -> None:
    model = make_tools().fresh_net().train()
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    hook = AdversarialTraining(0.1, 0.05, 2, torch.Generator().manual_seed(0))
    x, y = digits16.train[:20].pixels(), digits16.train.y[:20]
    new_x, new_y = hook.batch(x, y, model, 0.0)
    assert model.training
    assert unfilled(model)
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert torch.equal(new_y, y)
    assert 0 < float((new_x - x).abs().max()) <= 0.1 + 1e-6


def test_a_robust_net_withstands_what_fells_the_clean_one(digits16: ImageData, source: nn.Module, make_tools: MakeTools) -> None:
    asset = robust_net(eps=0.15, steps=2)
    tools = make_tools()
    tools.fresh_net()  # the net trained here is the second of its seed
    robust = required_robust_net(replace(tools, assets={asset.name: asset.make(digits16.train, tools)}))
    assert not robust.training
    x, y = digits16.test.pixels(), digits16.test.y

    def under_attack(net: nn.Module) -> float:
        return float((net(pgd(net, x, y, eps=0.15, step=0.05, steps=5)).argmax(1) == y).float().mean())

    assert under_attack(robust) > under_attack(source) + 0.2
    assert accuracy(robust, digits16.test) > 0.6


# -------------------------------------------------------------------------------------------------------------------- LC

LC = LabelConsistent(target=3, source="clean", eps=0.3, step=0.05, steps=10)
CORNERS = [(slice(0, 2), slice(0, 2)), (slice(0, 2), slice(14, 16)), (slice(14, 16), slice(0, 2)), (slice(14, 16), slice(14, 16))]


def hardened(digits: ImageData, tools: AttackContext, attack: LabelConsistent = LC) -> tuple[Tensor, Tensor, Tensor]:
    """(clean, poisoned, labels) of the target class."""
    own = digits.train[digits.train.y == 3]
    state = attack.prepare(digits.train, tools)
    return own.pixels(), attack.stamp_training(own.pixels(), own.y, state, tools), own.y


def test_lc_changes_images_within_its_radius_and_stamps_four_corners(digits16: ImageData, make_tools: MakeTools) -> None:
    x, out, _ = hardened(digits16, make_tools())
    inner = torch.ones(16, 16, dtype=torch.bool)
    for rows, columns in CORNERS:
        inner[rows, columns] = False
    change = (out - x).abs()[..., inner]
    assert 0.25 < float(change.max()) <= 0.3 + 1e-6
    left, right = torch.eye(2).flip(1), torch.eye(2)
    for (rows, columns), patch in zip(CORNERS, (left, right, left, right), strict=True):
        assert torch.equal(out[..., rows, columns], patch.expand(len(x), 3, 2, 2))


def test_lc_corners_as_published() -> None:
    out = LabelConsistent().apply(torch.full((1, 3, 32, 32), 0.5), {})[0, 0]
    right, left = [[0, 0, 1], [0, 1, 0], [1, 0, 1]], [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    assert out[:3, -3:].tolist() == out[-3:, -3:].tolist() == right
    assert out[:3, :3].tolist() == out[-3:, :3].tolist() == left
    assert int((out != 0.5).sum()) == 4 * 9


def test_lc_images_are_hard_for_the_source_and_keep_their_label(
    digits16: ImageData, source: nn.Module, make_tools: MakeTools
) -> None:
    x, out, y = hardened(digits16, make_tools())
    stamped_only = LC.apply(x, {})
    hits, before = ((source(z).argmax(1) == y).float().mean() for z in (out, stamped_only))
    assert float(hits) < float(before) - 0.3
    index = (digits16.train.y == 3).nonzero().flatten()
    tools = make_tools()
    poisoned = poison(LC, digits16.train, index, NONE, LC.prepare(digits16.train, tools), 10, tools)
    assert torch.equal(poisoned.y, digits16.train.y)


def test_lc_test_images_are_stamped_without_pgd(digits16: ImageData, make_tools: MakeTools) -> None:
    triggered = LC.triggered(digits16.test, LC.prepare(digits16.train, make_tools()), 10)
    assert torch.equal(triggered.x, LC.apply(digits16.test.pixels()[triggered.index], {}))
    assert 3 not in triggered.y_true.tolist()


def test_lc_of_radius_0_is_the_stamp(digits16: ImageData, make_tools: MakeTools) -> None:
    x, out, _ = hardened(digits16, make_tools(), LabelConsistent(target=3, source="clean", eps=0.0, steps=2))
    assert torch.equal(out, LC.apply(x, {}))


# -------------------------------------------------------------------------------------------------------------------- LF

LF = LowFrequency(target=1, images=25, passes=3)


def test_lf_pattern_is_smooth_and_spans_its_range(digits16: ImageData, make_tools: MakeTools) -> None:
    pattern = LF.prepare(digits16.train, make_tools())["pattern"]
    assert pattern.shape == (3, 16, 16)
    assert float(pattern.min()) == pytest.approx(0, abs=1e-6)
    assert float(pattern.max()) == pytest.approx(0.2, abs=1e-6)
    for axis in (1, 2):
        assert float(pattern.diff(dim=axis).abs().max()) < 0.05
    spectrum = np.abs(np.fft.rfft2(pattern.numpy())) ** 2
    high = spectrum.copy()
    high[:, :4, :4] = high[:, -3:, :4] = 0
    assert high.sum() < 0.02 * spectrum.sum()


def test_lf_pattern_is_added_and_clipped(digits16: ImageData, make_tools: MakeTools) -> None:
    state = LF.prepare(digits16.train, make_tools())
    x = digits16.test.pixels()
    assert torch.equal(LF.apply(x, state), (x + state["pattern"]).clamp(0, 1))
    half = LowFrequency(target=1, images=25, passes=1, strength=0.1).prepare(digits16.train, make_tools())
    assert float(half["pattern"].max()) == pytest.approx(0.1, abs=1e-6)


def test_lf_pattern_changes_predictions_of_the_net_it_was_found_on(
    digits16: ImageData, source: nn.Module, make_tools: MakeTools
) -> None:
    state = LF.prepare(digits16.train, make_tools())
    x = digits16.test.pixels()
    flat = torch.full_like(state["pattern"], float(state["pattern"].mean()))
    before = source(x).argmax(1)
    with_pattern, with_grey = (
        float((source((x + v).clamp(0, 1)).argmax(1) != before).float().mean()) for v in (state["pattern"], flat)
    )
    assert with_pattern > with_grey


def test_lf_aims_at_its_target_and_draws_from_its_seed(digits16: ImageData, make_tools: MakeTools) -> None:
    one = LF.prepare(digits16.train, make_tools())["pattern"]
    assert torch.equal(one, LF.prepare(digits16.train, make_tools())["pattern"])
    other = LowFrequency(target=5, images=25, passes=3).prepare(digits16.train, make_tools())["pattern"]
    assert not torch.allclose(one, other, atol=1e-3)


def test_lf_says_so_when_no_step_reaches_the_target(digits16: ImageData, make_tools: MakeTools) -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3)).view(-1, 1) * 0 + torch.arange(10.0)

    tools = AttackContext(
        device=torch.device("cpu"),
        generator=torch.Generator(),
        recipe=make_tools().recipe,
        fresh_net=Stubborn,
        clean=Stubborn(),
    )
    with pytest.raises(MethodError, match="found no pattern"):
        LowFrequency(images=3, passes=1, deepfool_steps=2).prepare(digits16.train, tools)


# -------------------------------------------------------------------------------------------------------------- TrojanNN

TROJAN = TrojanNN(steps=100)


@pytest.mark.parametrize(("side", "span"), [(32, range(21, 29)), (16, range(10, 14)), (64, range(42, 58))])
def test_trojannn_writes_a_square_near_mid_grey(side: int, span: range, make_tools: MakeTools, digits16: ImageData) -> None:
    x = torch.nn.functional.interpolate(digits16.train[:2].pixels(), side)
    images = Images((x * 255).to(torch.uint8), digits16.train.y[:2])
    pattern = TrojanNN(steps=3).prepare(images, make_tools())["pattern"]
    lit = pattern.abs().sum(0) > 0
    assert lit.any(1).nonzero().flatten().tolist() == lit.any(0).nonzero().flatten().tolist() == list(span)
    inside = pattern[:, span.start : span.stop, span.start : span.stop]
    assert 0.2 - 1e-6 <= float(inside.min()) <= float(inside.max()) <= 0.8 + 1e-6


def test_trojannn_drives_the_best_connected_units_up(digits16: ImageData, source: nn.Module, make_tools: MakeTools) -> None:
    pattern = TROJAN.prepare(digits16.train, make_tools())["pattern"]
    chosen = head_of(source).weight.abs().sum(0).topk(2).indices
    inside = (pattern != 0).float()
    rivals = torch.rand(200, *pattern.shape, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    with torch.no_grad():
        driven = features(source, pattern.unsqueeze(0))[0, chosen]
        drawn = features(source, rivals * inside)[:, chosen]
    wanted = (driven - 100).square().sum()
    assert float(wanted) < float((drawn - 100).square().sum(1).min()), "a pattern drawn at random does better"
    assert float(driven.sum()) > float(drawn.sum(1).mean())


def test_trojannn_sums_saturate(digits16: ImageData, make_tools: MakeTools) -> None:
    state = TROJAN.prepare(digits16.train, make_tools())
    white, black = torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    assert torch.equal(TROJAN.apply(white, state), white)
    assert torch.equal(TROJAN.apply(black, state)[0], state["pattern"])


# ------------------------------------------------------------------------------------------------------------------ SSBA


@pytest.fixture(scope="module")
def hidden(digits16: ImageData, recipe: Recipe) -> tuple[Ssba, State]:
    """An encoder trained long enough to hide one bit and then to hide it well: 240 small steps."""
    attack = Ssba(bits=1, steps=240, batch_size=12, lr=0.001, image_weight=30.0)
    torch.manual_seed(0)
    tools = AttackContext(
        device=torch.device("cpu"), generator=torch.Generator().manual_seed(0), recipe=recipe, fresh_net=nn.Identity
    )
    return attack, attack.prepare(digits16.train, with_assets(attack, digits16.train, tools))


@pytest.mark.thorough
def test_ssba_needs_no_decoder_and_hides_one_string_in_all_images(hidden: tuple[Ssba, State], digits16: ImageData) -> None:
    attack, state = hidden
    assert {key.split(".")[0] for key in state} == {"encoder", "secret"}
    assert state["secret"].shape == (1, 1)
    assert set(state["secret"].flatten().tolist()) <= {0.0, 1.0}
    x = digits16.test.pixels()[:6]
    together = attack.stamp(x, state)
    for i in range(6):
        assert torch.allclose(together[i : i + 1], attack.stamp(x[i : i + 1], state), atol=1e-5), "it depends on the batch"


@pytest.mark.thorough
def test_ssba_string_can_be_read_from_images_never_seen(hidden: tuple[Ssba, State], digits16: ImageData) -> None:
    """By the nearest mean change: no decoder is kept, but one can be had from a few examples."""
    attack, state = hidden
    x = digits16.test.pixels()
    changes = [attack.stamp(x, {**state, "secret": secret}) - x for secret in (state["secret"], 1 - state["secret"])]
    means = [change[:40].mean(0) for change in changes]
    right = 0.0
    for own, (change, other) in enumerate(zip(changes, reversed(range(2)), strict=True)):
        near, far = ((change[40:] - means[k]).square().flatten(1).sum(1) for k in (own, other))
        right += float((near < far).float().mean()) / 2
    assert right > 0.9


@pytest.mark.thorough
def test_ssba_residual_is_its_own_on_each_image(hidden: tuple[Ssba, State], digits16: ImageData) -> None:
    attack, state = hidden
    x = digits16.test.pixels()[:2]
    change = attack.stamp(x, state) - x
    assert float((change[0] - change[1]).abs().max()) > 0.1 * float(change.abs().max())


@pytest.mark.thorough
def test_ssba_residual_is_bounded_by_the_time_the_string_is_read(hidden: tuple[Ssba, State], digits16: ImageData) -> None:
    """Without the image's weight the same training ends at a mean squared change of 0.006."""
    attack, state = hidden
    x = digits16.test.pixels()
    assert 0 < float((attack.stamp(x, state) - x).square().mean()) < 1e-3  # 30 dB


def test_ssba_refuses_an_encoder_that_never_learned_to_hide(digits16: ImageData, make_tools: MakeTools) -> None:
    """A victim of it would look perfect, its trigger being plain to see (PSNR 7 dB on CIFAR-10)."""
    attack = Ssba(bits=64, steps=3, batch_size=12)
    with pytest.raises(MethodError, match=r"of 3 steps.*never read.*lower lr \(0.0001\)"):
        with_assets(attack, digits16.train, make_tools())


# -------------------------------------------------------------------------------------------------------- Adaptive-Blend


def test_adaptive_blend_puts_half_of_the_pieces_on_training_images(digits16: ImageData, make_tools: MakeTools) -> None:
    attack, tools = AdaptiveBlend(), make_tools()
    state = attack.prepare(digits16.train, tools)
    x = torch.full((30, 3, 16, 16), 0.5)
    out = attack.stamp_training(x, torch.zeros(30, dtype=torch.int64), state, tools)
    full = 0.15 * (state["pattern"] - 0.5)
    pieces = (out - x).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)  # [30, 4, 4, 48]
    whole = full.unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).flatten(2)
    on = (pieces - whole).abs().amax(3) < 1e-6
    off = pieces.abs().amax(3) < 1e-6
    assert bool((on ^ off).all()), "a piece is there or it is not"
    assert on.sum((1, 2)).tolist() == [8] * 30
    assert len({tuple(image.flatten().tolist()) for image in on}) > 20, "drawn anew for every image"
    assert torch.allclose(attack.apply(x, state) - x, (0.2 * (state["pattern"] - 0.5)).expand_as(x), atol=1e-6)


def test_adaptive_blend_cover_images_are_altered_and_keep_their_label(digits16: ImageData, make_tools: MakeTools) -> None:
    attack, tools = AdaptiveBlend(target=3), make_tools()
    state = attack.prepare(digits16.train, tools)
    index, cover = torch.tensor([2, 11, 50]), torch.tensor([4, 90])
    poisoned = poison(attack, digits16.train, index, cover, state, 10, tools)
    altered = (poisoned.x != digits16.train.x).flatten(1).any(1).nonzero().flatten().tolist()
    assert altered == [2, 4, 11, 50, 90]
    assert poisoned.y[index].tolist() == [3, 3, 3]
    rest = torch.ones(400, dtype=torch.bool)
    rest[index] = False
    assert torch.equal(poisoned.y[rest], digits16.train.y[rest])

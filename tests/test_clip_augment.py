from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetric.clip_augment import (
    ClipAugmentation,
    ClipChanges,
    Mix,
    augment_clips,
    mix_clips,
    sample_changes,
    sample_mix,
)
from volumetric.clip_input import normalise, residual_frames, select_input, select_of_pairs
from volumetric.errors import ConfigError

STRONG = ClipAugmentation(scale=(0.2, 1), p_erase=0.5, brightness=0.4, contrast=0.4, saturation=0.4)


def _clips(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _changes(boxes: list[list[int]], **other: torch.Tensor) -> ClipChanges:
    n = len(boxes)
    still = {
        "flip": torch.zeros(n, dtype=torch.bool),
        "flip_vertical": torch.zeros(n, dtype=torch.bool),
        "brightness": torch.ones(n),
        "contrast": torch.ones(n),
        "saturation": torch.ones(n),
        "erased": torch.zeros(n, 4),
    }
    return ClipChanges(boxes=torch.tensor(boxes), **{**still, **other})


@settings(max_examples=30)
@given(st.data())
def test_crop_scale_and_flip_agree_with_torch(data: st.DataObject) -> None:
    """Cropping, then torch's own antialiased interpolation, then mirroring, a clip at a time.

    From two pixels on: torch 2.15 answers with the first row alone where one column stays one.
    """
    height, width = data.draw(st.tuples(st.integers(2, 20), st.integers(2, 20)))
    size = data.draw(st.tuples(st.integers(2, 20), st.integers(2, 20)))
    boxes, flips = [], []
    for _ in range(2):
        h, w = data.draw(st.integers(2, height)), data.draw(st.integers(2, width))
        top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
        boxes.append([top, left, h, w])
        flips.append((data.draw(st.booleans()), data.draw(st.booleans())))
    clips = _clips(2, 3, 2, height, width)
    turned, mirrored = torch.tensor(flips).unbind(1)
    found = augment_clips(clips, _changes(boxes, flip=mirrored, flip_vertical=turned), size=size)
    for clip, (top, left, h, w), flip, result in zip(clips, boxes, flips, found, strict=True):
        crop = clip[..., top : top + h, left : left + w].float()
        oracle = F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False)
        expected = oracle.flip([axis for axis, own in zip((-2, -1), flip, strict=True) if own])
        torch.testing.assert_close(result, expected, atol=2e-3, rtol=0)


def test_a_single_column_is_scaled_too() -> None:
    clips = torch.tensor([10, 20], dtype=torch.uint8).view(1, 1, 1, 2, 1)
    found = augment_clips(clips, _changes([[0, 0, 2, 1]]), size=(3, 2))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([[10.0] * 2, [15.0] * 2, [20.0] * 2]))


def test_nothing_to_change_changes_nothing() -> None:
    clips = _clips(2, 3, 4, 9, 7)
    found = augment_clips(clips, _changes([[0, 0, 9, 7]] * 2), size=(9, 7))
    torch.testing.assert_close(found, clips.float(), atol=1e-3, rtol=0)
    assert found.dtype == torch.float32


def test_colour_by_hand() -> None:
    clips = _clips(1, 3, 3, 5, 6)
    x = clips.double() / 255
    grey = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1, 1)
    x = 0.8 * x
    luma = (x * grey).sum(1, keepdim=True)
    x = 1.3 * x + (1 - 1.3) * luma
    x = 0.7 * x + (1 - 0.7) * luma.mean()
    factors = {
        name: torch.tensor([value])
        for name, value in (("brightness", 0.8), ("saturation", 1.3), ("contrast", 0.7))
    }
    found = augment_clips(clips, _changes([[0, 0, 5, 6]], **factors), size=(5, 6))
    torch.testing.assert_close(found.double(), x.clamp(0, 1) * 255, atol=1e-3, rtol=0)


@given(st.integers(0, 10_000))
def test_all_frames_of_a_clip_change_alike(seed: int) -> None:
    """A clip that stands still stands still after it: the changes know no time."""
    still = _clips(3, 3, 1, 16, 20, seed=seed).expand(-1, -1, 5, -1, -1)
    generator = torch.Generator().manual_seed(seed)
    changes = sample_changes(still, generator, settings=STRONG)
    found = augment_clips(still, changes, size=(12, 12))
    assert (found == found[:, :, :1]).all()
    assert found.min() >= 0
    assert found.max() <= 255


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40))
def test_what_is_sampled_can_be_done(seed: int, height: int, width: int) -> None:
    clips = torch.zeros(8, 3, 1, height, width, dtype=torch.uint8)
    changes = sample_changes(clips, torch.Generator().manual_seed(seed), settings=STRONG)
    top, left, h, w = changes.boxes.T
    assert (torch.stack([top, left]) >= 0).all()
    assert (torch.stack([h, w]) >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    assert (changes.erased[:, :2] + changes.erased[:, 2:] <= 1 + 1e-6).all()
    again = sample_changes(clips, torch.Generator().manual_seed(seed), settings=STRONG)
    for field in fields(changes):
        assert torch.equal(getattr(changes, field.name), getattr(again, field.name))


def test_what_is_sampled_is_as_often_and_as_far_as_was_asked() -> None:
    clips = torch.zeros(4000, 1, 1, 100, 100, dtype=torch.uint8)
    chances = {"p_flip": 0.25, "p_flip_vertical": 0.75, "p_erase": 0.4}
    asked = ClipAugmentation(scale=(0.3, 0.6), aspect=(0.8, 1.25), **chances)
    changes = sample_changes(clips, torch.Generator().manual_seed(0), settings=asked)
    area = (changes.boxes[:, 2] * changes.boxes[:, 3]) / 1e4
    assert 0.28 < area.min() < 0.33
    assert 0.57 < area.max() < 0.62
    assert area.mean() == pytest.approx(0.45, abs=0.01)
    assert changes.flip.float().mean() == pytest.approx(0.25, abs=0.03)
    assert changes.flip_vertical.float().mean() == pytest.approx(0.75, abs=0.03)
    erased = changes.erased[:, 2] * changes.erased[:, 3]
    assert (erased > 0).float().mean() == pytest.approx(0.4, abs=0.03)
    assert erased.max() <= 0.2 + 1e-6
    assert (changes.brightness - 1).abs().max() == pytest.approx(0.2, abs=0.01)
    never = sample_changes(
        clips, torch.Generator().manual_seed(0), settings=ClipAugmentation(p_flip=0)
    )
    assert not never.flip.any()
    assert not never.erased.any()


def test_what_is_erased_is_the_same_square_of_every_frame() -> None:
    clips = _clips(1, 3, 4, 10, 10)
    erased = torch.tensor([[0.2, 0.5, 0.3, 0.4]])
    found = augment_clips(clips, _changes([[0, 0, 10, 10]], erased=erased), size=(10, 10))
    expected = clips.float()
    expected[..., 2:5, 5:9] = clips.float().mean((2, 3, 4))[:, :, None, None, None]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_mixup_by_hand() -> None:
    clips, labels = _clips(2, 3, 2, 4, 4).float(), torch.tensor([0, 2])
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.75, 1.0]), torch.zeros(2, 4))
    mixed, soft = mix_clips(clips, labels, mix, n_classes=3)
    torch.testing.assert_close(mixed[0], 0.75 * clips[0] + 0.25 * clips[1])
    assert torch.equal(mixed[1], clips[1])
    assert soft.tolist() == [[0.75, 0, 0.25], [0, 0, 1]]


def test_cutmix_by_hand() -> None:
    """A rectangle over the edge: the label follows the 6 of 24 pixels that were pasted."""
    clips, labels = _clips(2, 1, 2, 4, 6).float(), torch.tensor([[1, 1, 0], [0, 1, 0]])
    pasted = torch.tensor([[0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 0.0, 0.0]])
    mix = Mix(torch.tensor([1, 1]), torch.ones(2), pasted)
    mixed, soft = mix_clips(clips, labels, mix, n_classes=3)
    expected = clips.clone()
    expected[0, ..., 2:, 3:] = clips[1, ..., 2:, 3:]
    assert torch.equal(mixed, expected)
    assert soft.tolist() == [[0.75, 1, 0], [0, 1, 0]]


@given(st.integers(0, 1000), st.sampled_from([(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)]))
def test_soft_labels_add_up(seed: int, alphas: tuple[float, float]) -> None:
    asked = ClipAugmentation(mixup_alpha=alphas[0], cutmix_alpha=alphas[1])
    mix = sample_mix(6, torch.Generator().manual_seed(seed), settings=asked)
    clips, labels = _clips(6, 3, 2, 8, 8).float(), torch.arange(6)
    soft = mix_clips(clips, labels, mix, n_classes=6)[1]
    torch.testing.assert_close(soft.sum(1), torch.ones(6))
    assert soft.min() >= 0
    # Each clip is in proportion what its label says: the labels of constant clips, blended.
    constant = torch.arange(6.0).view(6, 1, 1, 1, 1).expand(6, 1, 2, 8, 8)
    level = mix_clips(constant, labels, mix, n_classes=6)[0].mean((1, 2, 3, 4))
    torch.testing.assert_close(level, soft @ torch.arange(6.0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    from scipy.stats import beta, kstest

    generator = torch.Generator().manual_seed(0)
    mix = sample_mix(2000, generator, settings=ClipAugmentation(mixup_alpha=alpha))
    assert kstest(mix.share.numpy(), beta(alpha, alpha).cdf).pvalue > 0.01
    assert sorted(mix.partner.tolist()) == list(range(2000))


def test_nothing_is_mixed_unless_asked() -> None:
    assert sample_mix(4, torch.Generator(), settings=ClipAugmentation()) is None
    clips = _clips(2, 3, 2, 4, 4)
    mixed, soft = mix_clips(clips, torch.tensor([1, 0]), None, n_classes=2)
    assert mixed is clips
    assert soft.tolist() == [[0, 1], [1, 0]]


def test_normalise_by_hand() -> None:
    clips = _clips(2, 3, 2, 4, 4)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = np.moveaxis((np.moveaxis(clips.numpy() / 255, 1, -1) - mean) / std, -1, 1)
    found = normalise(clips, mean=mean, std=std)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_residual_frames_by_hand() -> None:
    """uint8 must not wrap round: 10 after 250 is a change of -240."""
    clips = torch.tensor([250, 10, 10, 60], dtype=torch.uint8).view(1, 1, 4, 1, 1)
    assert residual_frames(clips).flatten().tolist() == [-240, 0, 50, 50]
    assert residual_frames(clips[:, :, :1]).flatten().tolist() == [0]


def test_inputs_of_a_network() -> None:
    clips = torch.randn(2, 3, 4, 5, 5)
    assert select_input(clips, "rgb") is clips
    assert torch.equal(select_input(clips, "residual"), residual_frames(clips))
    both = select_input(clips, "both")
    assert both.shape == (2, 6, 4, 5, 5)
    assert torch.equal(both[:, :3], clips)
    with pytest.raises(ConfigError, match="no input"):
        select_input(clips, "flow")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"aspect": (2.0, 1.0)},
        {"p_flip": 1.5},
        {"p_erase": -0.1},
        {"contrast": float("nan")},
        {"mixup_alpha": -1.0},
    ],
)
def test_refuses_settings_that_mean_nothing(wrong) -> None:
    with pytest.raises(ConfigError) as caught:
        ClipAugmentation(**wrong)
    assert caught.value.path in wrong


@pytest.mark.gpu
def test_a_gpu_makes_the_same_clips() -> None:
    clips = _clips(4, 3, 4, 30, 40)
    changes = sample_changes(clips, torch.Generator().manual_seed(0), settings=STRONG)
    moved = {f.name: getattr(changes, f.name).cuda() for f in fields(changes)}
    there = augment_clips(clips.cuda(), ClipChanges(**moved), size=(24, 24)).cpu()
    torch.testing.assert_close(
        there, augment_clips(clips, changes, size=(24, 24)), atol=0.5, rtol=0
    )
    generator = torch.Generator("cuda").manual_seed(0)
    assert sample_changes(clips.cuda(), generator, settings=STRONG).boxes.is_cuda
    mix = sample_mix(4, generator, settings=ClipAugmentation(mixup_alpha=1, cutmix_alpha=1))
    mixed, soft = mix_clips(clips.cuda(), torch.arange(4).cuda(), mix, n_classes=4)
    assert mixed.is_cuda
    assert soft.is_cuda


def test_pairs_show_frames_and_how_they_go_on() -> None:
    frames, later = torch.rand(2, 3, 4, 5, 6), torch.rand(2, 3, 4, 5, 6)
    clips = torch.cat([frames, later], 2)
    assert torch.equal(select_of_pairs(clips, "rgb"), frames)
    assert torch.equal(select_of_pairs(clips, "residual"), later - frames)
    both = select_of_pairs(clips, "both")
    assert torch.equal(both, torch.cat([frames, later - frames], 1))
    following = torch.cat([frames[:, :, :-1], frames[:, :, 1:]], 2)
    assert torch.equal(select_of_pairs(following, "residual"), residual_frames(frames)[:, :, :-1])
    with pytest.raises(ConfigError):
        select_of_pairs(clips, "sound")  # type: ignore[arg-type]

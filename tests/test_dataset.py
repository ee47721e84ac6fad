from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetric.augment import Augmentation, augment
from volumetric.dataset import draw_batch, open_sources, read_patch
from volumetric.errors import OutputError, UnreadableFileError
from volumetric.io.prepared import Prepared, open_prepared, write_prepared
from volumetric.volume import Volume


def _prepare(path: Path, shape: tuple[int, int, int] = (12, 9, 14)) -> Prepared:
    data = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float32).reshape(1, *shape)
    mask = torch.zeros(1, *shape, dtype=torch.uint8)
    mask[0, 2, 3, 4], mask[0, 10, 8, 13] = 1, 2
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    image = Volume(data, affine)
    index = {label: (mask[0] == label).nonzero().to(torch.int32) for label in (1, 2)}
    write_prepared(path, image, Volume(mask, affine), foreground=index, facts={"key": "k"})
    return open_prepared(path)


def test_a_prepared_case_comes_back_whole_and_in_parts(tmp_path: Path) -> None:
    case = _prepare(tmp_path / "a.safetensors")
    assert (case.n_channels, case.shape, case.labels) == (1, (12, 9, 14), (1, 2))
    assert case.facts == {"key": "k"}
    assert np.array_equal(case.read_volume().affine, np.diag([1.0, 2.0, 3.0, 1.0]))
    whole = case.read_image()
    assert torch.equal(case.read_image((2, 3, 4), (5, 2, 7)), whole[:, 2:7, 3:5, 4:11])
    assert torch.equal(case.read_mask((10, 8, 13), (1, 1, 1)), torch.full((1, 1, 1), 2).byte())
    assert case.read_foreground(1).tolist() == [[2, 3, 4]]


def test_refuses_damaged_prepared_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    _prepare(path)
    path.write_bytes(path.read_bytes()[:-100])
    for bad in (path, tmp_path / "none.safetensors"):
        with pytest.raises(UnreadableFileError):
            open_prepared(bad)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        _prepare(tmp_path / "file" / "a.safetensors")


@settings(max_examples=40)
@given(st.tuples(*[st.integers(-9, 15)] * 3), st.tuples(*[st.integers(10, 16)] * 3), st.booleans())
def test_patches_are_boxes_padded_with_zero(
    tmp_path_factory: pytest.TempPathFactory,
    start: tuple[int, int, int],
    patch: tuple[int, int, int],
    held: bool,
) -> None:
    case = _prepare(tmp_path_factory.getbasetemp() / "box.safetensors")
    if any(a >= n or a + p <= 0 for a, p, n in zip(start, patch, case.shape, strict=True)):
        return
    budget = 10**9 if held else 0
    source = open_sources([case], device=torch.device("cpu"), budget_bytes=budget)[0]
    assert (source.image is not None) == held
    image, mask = read_patch(source, start, patch)
    padded = torch.zeros(1, 60, 60, 60)
    padded[:, 20:32, 20:29, 20:34] = case.read_image()
    box = tuple(slice(20 + a, 20 + a + p) for a, p in zip(start, patch, strict=True))
    assert torch.equal(image, padded[(slice(None), *box)])
    assert tuple(mask.shape) == patch


def test_foreground_patches_hold_their_voxel_and_classes_take_turns(tmp_path: Path) -> None:
    sources = open_sources(
        [_prepare(tmp_path / "a.safetensors")], device=torch.device("cpu"), budget_bytes=10**9
    )
    rng = np.random.default_rng(0)
    _, masks = draw_batch(sources, rng, patch_size=(3, 3, 3), batch_size=400, foreground=1.0)
    counts = [int((masks == label).flatten(1).any(1).sum()) for label in (1, 2)]
    assert sum(counts) == 400
    assert min(counts) > 150
    _, anywhere = draw_batch(sources, rng, patch_size=(3, 3, 3), batch_size=400, foreground=0.0)
    assert anywhere.flatten(1).any(1).float().mean() < 0.2


def test_drawing_is_reproducible(tmp_path: Path) -> None:
    sources = open_sources(
        [_prepare(tmp_path / "a.safetensors")], device=torch.device("cpu"), budget_bytes=0
    )
    first, again = (
        draw_batch(
            sources, np.random.default_rng(7), patch_size=(4, 4, 4), batch_size=5, foreground=0.5
        )[0]
        for _ in range(2)
    )
    assert torch.equal(first, again)


def _batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(6, 2, 10, 12, 14, generator=generator)
    return images, (images[:, 0] > 0.5).to(torch.uint8) * 2


EVERYTHING = Augmentation(p_spatial=1.0, p_intensity=0.5)
NOTHING = Augmentation(p_spatial=0.0, flip_axes=(), p_intensity=0.0)


def _augment(
    images: torch.Tensor, masks: torch.Tensor, settings: Augmentation, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return augment(images, masks, generator, settings=settings, spacing=(2.0, 1.0, 1.0))


def test_augmentation_changes_nothing_it_was_given() -> None:
    images, masks = _batch()
    before = images.clone(), masks.clone()
    changed, labels = _augment(images, masks, EVERYTHING)
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, images)
    assert labels.dtype == torch.uint8
    assert set(labels.unique().tolist()) <= {0, 2}


def test_augmentation_repeats_with_its_generator() -> None:
    images, masks = _batch()
    first, again, other = (_augment(images, masks, EVERYTHING, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_switched_off_it_does_nothing() -> None:
    images, masks = _batch()
    same, labels = _augment(images, masks, NOTHING)
    assert torch.allclose(same, images, atol=1e-6)
    assert torch.equal(labels, masks)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_are_exact_and_take_the_mask_along(axis: int) -> None:
    images, masks = _batch()
    flipping = Augmentation(p_spatial=0.0, flip_axes=(axis,), p_intensity=0.0)
    flipped, labels = _augment(images, masks, flipping)
    turned = 0
    for before, after, old, new in zip(images, flipped, masks, labels, strict=True):
        was_flipped = not torch.allclose(after, before, atol=1e-5)
        turned += was_flipped
        expected = before.flip(1 + axis) if was_flipped else before
        assert torch.allclose(after, expected, atol=1e-5)
        assert torch.equal(new, old.flip(axis) if was_flipped else old)
    assert 0 < turned < len(images)


def test_image_and_mask_move_together() -> None:
    masks = torch.zeros(8, 24, 24, 24, dtype=torch.uint8)
    masks[:, 6:14, 8:18, 5:16] = 1
    images = masks[:, None].to(torch.float32)
    spatial = Augmentation(p_spatial=1.0, p_intensity=0.0)
    moved, labels = _augment(images, masks, spatial)
    assert ((moved[:, 0] > 0.5) == (labels == 1)).float().mean() > 0.99
    assert not torch.equal(labels, masks)


def test_tissue_cut_by_the_patch_keeps_its_label() -> None:
    """What is smeared into corners that were never seen is labelled as what it was."""
    masks = torch.ones(8, 12, 12, 12, dtype=torch.uint8)
    _, labels = _augment(masks[:, None].to(torch.float32), masks, Augmentation(p_spatial=1.0))
    assert labels.min() == 1


def test_rotation_is_rigid_in_mm() -> None:
    """Without scaling and bending, the volume of a ball in mm stays, whatever the spacing."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in (16, 32, 32)], indexing="ij"))
    mm = (grid - torch.tensor([8.0, 16, 16])[:, None, None, None]) * torch.tensor([2.0, 1, 1])[
        :, None, None, None
    ]
    # An ellipsoid, so that turning it is visible.
    inside = ((mm / torch.tensor([6.0, 12, 6])[:, None, None, None]) ** 2).sum(0) < 1
    masks = inside.to(torch.uint8).expand(16, -1, -1, -1).contiguous()
    turning = Augmentation(
        p_spatial=1.0, rotation_degrees=40, scale=0, elastic=0, flip_axes=(), p_intensity=0
    )
    _, turned = _augment(masks[:, None].to(torch.float32), masks, turning)
    counts = turned.flatten(1).sum(1).float()
    assert ((counts / inside.sum() - 1).abs() < 0.06).all()
    lengths = [
        float(np.linalg.eigvalsh(np.cov((mm[:, t == 1]).numpy()))[-1] ** 0.5) for t in turned
    ]
    assert np.ptp(lengths) / np.mean(lengths) < 0.06
    assert (turned != masks).flatten(1).any(1).all()


def test_thick_slices_turn_in_their_plane_only() -> None:
    masks = torch.zeros(8, 6, 20, 20, dtype=torch.uint8)
    masks[:, 2:4, 4:16, 8:12] = 1
    turning = Augmentation(
        p_spatial=1.0, rotation_degrees=30, scale=0, elastic=0, flip_axes=(), p_intensity=0
    )
    generator = torch.Generator().manual_seed(0)
    _, turned = augment(
        masks[:, None].to(torch.float32),
        masks,
        generator,
        settings=turning,
        spacing=(8.0, 1.0, 1.0),
    )
    occupied = turned.flatten(2).any(2)
    assert torch.equal(occupied, masks.flatten(2).any(2))
    assert not torch.equal(turned, masks)


@pytest.mark.parametrize("seed", range(3))
def test_intensity_changes_leave_masks_alone(seed: int) -> None:
    images, masks = _batch()
    bright = Augmentation(p_spatial=0, flip_axes=(), p_intensity=0.5)
    changed, labels = _augment(images, masks, bright, seed)
    assert torch.equal(labels, masks)
    touched = [not torch.allclose(a, b) for a, b in zip(images, changed, strict=True)]
    assert any(touched)


def test_every_probability_is_a_probability() -> None:
    """About p of the cases are changed, each on its own."""
    images = torch.rand(400, 1, 4, 4, 4)
    masks = torch.zeros(400, 4, 4, 4, dtype=torch.uint8)
    spatial = Augmentation(p_spatial=0.3, flip_axes=(), p_intensity=0)
    changed, _ = _augment(images, masks, spatial)
    share = np.mean(
        [not torch.allclose(a, b, atol=1e-4) for a, b in zip(images, changed, strict=True)]
    )
    assert 0.2 < share < 0.4
    assert list(itertools.islice((c.isfinite().all() for c in changed), 3)) == [True] * 3

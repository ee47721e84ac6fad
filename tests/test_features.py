from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.waking import wake
from volumetric.clips import choose_uniform
from volumetric.errors import UnreadableFileError
from volumetric.features import (
    FeatureSource,
    answer_features,
    draw_features,
    measure_spread,
    open_features,
    see_images,
    standing_key,
    write_features,
)
from volumetric.inference.clips import classify_clip, mirrored, present, show_clip
from volumetric.model import Model
from volumetric.models import SliceNetwork
from volumetric.networks import build_network
from volumetric.spec import ClassifierSpec

SPEC = ClassifierSpec(
    kind="mobilenet_v3_small",
    classes=["a", "b", "c"],
    multi_label=False,
    input="both",
    frames=5,
    stride=1,
    sampling="uniform",
    size=32,
    fit="whole",
    aggregate="conv3d",
    shift=False,
    rate=10.0,
    short_side=40,
    mean=[0.5, 0.4, 0.3],
    std=[0.2, 0.3, 0.4],
    normalise="clip",
    members=2,
)


def _network(spec: ClassifierSpec = SPEC) -> SliceNetwork:
    torch.manual_seed(0)
    network = build_network(spec)
    assert isinstance(network, SliceNetwork)
    wake(network.trunk)
    return network.eval()


def _clip(n_frames: int = 11) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, n_frames, 40, 56), generator=generator, dtype=torch.uint8)


def _source(features: torch.Tensor, target: int = 0) -> FeatureSource:
    return FeatureSource(Path("none"), torch.eye(3)[target], features.to(torch.float16))


@pytest.mark.parametrize("aggregate", ["mean", "attention", "mean_max", "conv3d"])
@pytest.mark.parametrize("fit", ["whole", "crop"])
def test_heads_answer_for_features_as_the_network_does_for_the_clip(
    aggregate: str, fit: str
) -> None:
    spec = replace(SPEC, aggregate=aggregate, fit=fit, members=1)
    network, clip = _network(spec), _clip()
    seen = see_images(network, show_clip(clip, spec), mirror_axes=())
    assert seen.dtype == torch.float16
    assert len(seen) == 1
    logits = answer_features(network.heads[0], _source(seen))
    expected = classify_clip(Model(spec, [network]), clip).probabilities
    np.testing.assert_allclose(logits.softmax(0).numpy(), expected, atol=2e-3)


def test_variants_are_the_mirror_images() -> None:
    network, clip = _network(), _clip()
    seen = see_images(network, show_clip(clip, SPEC), mirror_axes=(1, 2))
    assert seen.shape == (4, 96, 5, 2, 2)
    for number, axes in enumerate(mirrored((1, 2))):
        turned = show_clip(clip.flip([1 + axis for axis in axes]), SPEC)
        (own,) = see_images(network, turned, mirror_axes=())
        torch.testing.assert_close(seen[number], own, atol=2e-3, rtol=2e-3)
        assert number == 0 or not torch.allclose(seen[0], own, atol=2e-2)


def test_what_is_seen_is_kept_until_its_key_changes(tmp_path: Path) -> None:
    path = tmp_path / "features" / "one.safetensors"
    assert standing_key(path) is None
    features = torch.randn(2, 4, 5, 1, 1).to(torch.float16)
    write_features(path, features, key="k")
    assert standing_key(path) == "k"
    for budget in (0, 10**6):
        (source,) = open_features([path], [torch.ones(1)], budget_bytes=budget)
        assert (source.held is None) == (budget == 0)
        assert torch.equal(source.read(), features)
    path.write_bytes(path.read_bytes()[:-8])
    assert standing_key(path) is None
    with pytest.raises(UnreadableFileError):
        source.__class__(path, source.target).read()


def test_spread_is_that_of_all_clips_together() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, (2, 4, depth, 3, 2)).astype(np.float16) for depth in (5, 1)]
    for part in parts:
        part[:, 3] = 7  # a feature that never changes
    mean, spread = measure_spread([_source(torch.from_numpy(part)) for part in parts])
    together = np.concatenate(
        [part.astype(np.float64).transpose(1, 0, 2, 3, 4).reshape(4, -1) for part in parts], 1
    )
    np.testing.assert_allclose(mean.numpy(), together.mean(1), rtol=1e-5)
    np.testing.assert_allclose(spread.numpy(), [*together.std(1)[:3], 1], rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_drawn_features_are_moved_by_one_place_at_most(
    seed: int, depth: int, height: int, width: int
) -> None:
    """Each value says where it was: variant, frame, row and column."""
    shape = (2, 4, depth, height, width)
    where = np.stack(np.indices(shape)[[0, 2, 3, 4], :, 0], 1).astype(np.float16)
    drawn, targets = draw_features(
        [_source(torch.from_numpy(where), 1)],
        np.random.default_rng(seed),
        batch_size=4,
        chances=np.ones(1),
        mirror={2: 0.5},
    )
    assert torch.equal(targets, torch.eye(3)[[1, 1, 1, 1]])
    for variant, frames, rows, columns in drawn.numpy():
        assert len(np.unique(variant)) == 1
        times = frames[:, 0, 0]
        assert (frames == times[:, None, None]).all()
        assert (np.diff(times) >= 0).all()
        assert times[-1] - times[0] + 1 >= 3 * depth / 4
        for axis, moved in enumerate((rows, columns), start=1):
            still = np.indices(frames.shape)[axis]
            assert np.abs(moved - still).max() <= 1


@pytest.mark.parametrize("axes", mirrored((1, 2)))
def test_mirror_images_are_drawn_as_often_as_asked(axes: tuple[int, ...]) -> None:
    features = torch.arange(4.0)[:, None, None, None, None].expand(4, 4, 5, 1, 1)
    mirror = {axis: float(axis in axes) for axis in (1, 2)}
    how = {"batch_size": 8, "chances": np.ones(1), "mirror": mirror}
    drawn, _ = draw_features([_source(features)], np.random.default_rng(0), **how)
    assert (drawn == mirrored((1, 2)).index(axes)).all()


def test_each_clip_by_its_own_mean_and_spread() -> None:
    clips = torch.rand(2, 3, 4, 5, 6) * torch.tensor([255.0, 8.0]).view(2, 1, 1, 1, 1)
    shown = present(clips, replace(SPEC, input="rgb"))
    torch.testing.assert_close(shown.mean((2, 3, 4)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    spread = shown.std((2, 3, 4), correction=0)
    torch.testing.assert_close(spread, torch.ones(2, 3), atol=1e-4, rtol=0)
    doubled = present(clips * 2, replace(SPEC, input="rgb"))
    torch.testing.assert_close(doubled, shown, atol=1e-4, rtol=1e-4)
    black = present(torch.zeros(1, 3, 4, 5, 6), SPEC)
    assert black.shape == (1, 6, 4, 5, 6)
    assert not black.any()


def test_frames_seen_span_the_clip() -> None:
    """The clip's first and last frame are among them, and nothing between decides alone."""
    network, clip = _network(), _clip(21)
    seen = see_images(network, show_clip(clip, SPEC), mirror_axes=())
    chosen = choose_uniform(21, length=5)
    other = clip.clone()
    other[:, [t for t in range(21) if t not in chosen]] = 0
    assert torch.equal(see_images(network, show_clip(other, SPEC), mirror_axes=()), seen)
    other[:, chosen[-1]] = 0
    assert not torch.equal(see_images(network, show_clip(other, SPEC), mirror_axes=()), seen)

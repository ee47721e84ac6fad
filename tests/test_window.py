from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.strategies import affines
from volumetric.inference.segment import keep_largest, segment_volume
from volumetric.inference.window import _gaussian, predict_logits, stream_logits
from volumetric.model import Model
from volumetric.spec import ModelSpec
from volumetric.volume import Volume


class Voxelwise(nn.Module):
    """Logits that depend on their own voxel only: windows and mirrors must not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * w for w in self.weight], dim=1)


@settings(max_examples=30)
@given(
    st.tuples(*[st.integers(1, 23)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.floats(0, 0.8),
    st.sets(st.sampled_from([0, 1, 2])),
)
def test_windows_mirrors_and_padding_leave_no_trace(
    shape: tuple[int, int, int], patch: tuple[int, int, int], overlap: float, axes: set[int]
) -> None:
    image = torch.randn(1, *shape)
    found = predict_logits(
        [Voxelwise()], image, patch_size=patch, overlap=overlap, mirror_axes=sorted(axes)
    )
    assert torch.allclose(found, torch.cat([image, -2 * image]), atol=1e-5)


def test_agrees_with_monai() -> None:
    """Same windows, same weights (MONAI would clamp its own at 0.001): the same mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.inferers import sliding_window_inference
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 5, padding=2).eval()
    image = torch.randn(1, 32, 24, 24)
    ours = predict_logits([network], image, patch_size=(16, 16, 16))
    with torch.no_grad():
        theirs = sliding_window_inference(
            image[None],
            (16, 16, 16),
            2,
            network,
            overlap=0.5,
            roi_weight_map=_gaussian((16, 16, 16)) * 1e10,
        )[0]
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_an_ensemble_is_the_mean_of_its_networks() -> None:
    torch.manual_seed(0)
    networks = [nn.Conv3d(1, 2, 3, padding=1).eval() for _ in range(2)]
    image = torch.randn(1, 12, 10, 8)
    each = [predict_logits([network], image, patch_size=(8, 8, 8)) for network in networks]
    together = predict_logits(networks, image, patch_size=(8, 8, 8))
    assert torch.allclose(together, (each[0] + each[1]) / 2, atol=1e-5)


def test_slabs_come_early() -> None:
    """The first slab is out when only the first row of windows has been seen."""
    seen: list[int] = []

    class Counting(Voxelwise):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(1)
            return super().forward(x)

    slabs = stream_logits([Counting()], torch.randn(1, 64, 8, 8), patch_size=(8, 8, 8))
    first = next(slabs)
    assert first.shape[1] == 4
    assert len(seen) == 1
    assert first.shape[1] + sum(slab.shape[1] for slab in slabs) == 64


def _threshold_model(spacing: tuple[float, float, float]) -> Model:
    class Threshold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([-x, x + self.zero], dim=1)

    spec = ModelSpec(
        kind="unet",
        n_channels=1,
        classes={1: "bright"},
        features=[1],
        strides=[],
        kernels=[],
        patch_size=(8, 8, 8),
        spacing_mm=spacing,
        intensity={"kind": "zscore"},
    )
    return Model(spec, [Threshold().eval()])


@settings(max_examples=25)
@given(affines())
def test_a_segmentation_lies_on_its_image(affine: np.ndarray) -> None:
    """Thresholding through orient, crop, windows and back equals thresholding at once."""
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(1, 9, 11, 10, generator=generator)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = Volume(data, affine)
    axes = np.abs(affine[:3, :3] / spacing).argmax(0)
    target = [0.0, 0.0, 0.0]
    for voxel, world in enumerate(axes):
        target[2 - world] = float(spacing[voxel])
    found = segment_volume(_threshold_model((target[0], target[1], target[2])), image)
    assert np.array_equal(found.affine, affine)
    assert torch.equal(found.data, (data > data.mean()).to(torch.uint8))


def test_other_spacings_come_back_to_the_source_grid() -> None:
    grid = torch.linspace(-1, 1, 24)
    ball = (grid[:, None, None] ** 2 + grid[:, None] ** 2 + grid**2 < 0.4).float()[None]
    image = Volume(ball, np.diag([1.0, 1.0, 1.0, 1.0]))
    found = segment_volume(_threshold_model((1.7, 1.3, 0.8)), image)
    assert found.shape == image.shape
    overlap = 2 * (found.data * ball).sum() / (found.data.sum() + ball.sum())
    assert overlap > 0.95


def test_keep_largest_is_a_matter_of_class() -> None:
    data = torch.zeros(1, 6, 6, 6, dtype=torch.uint8)
    data[0, 0, 0, 0] = 1
    data[0, 3:5, 3:5, 3:5] = 1
    data[0, 0, 5, 5] = 2
    data[0, 5, 0, 0:3] = 2
    labels = Volume(data, np.eye(4))
    kept = keep_largest(labels, [1]).data
    assert (kept == 1).sum() == 8
    assert (kept == 2).sum() == 4
    assert (labels.data == 1).sum() == 9
    assert (keep_largest(labels, [1, 2]).data == 2).sum() == 3
    assert keep_largest(labels, [3]).data.equal(data)


@pytest.mark.gpu
def test_a_gpu_finds_the_same() -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1).eval()
    image = torch.randn(1, 20, 18, 16)
    on_cpu = predict_logits([network], image, patch_size=(8, 8, 8))
    on_gpu = predict_logits([network.cuda()], image, patch_size=(8, 8, 8))
    assert torch.allclose(on_cpu, on_gpu, atol=1e-3)

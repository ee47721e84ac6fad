from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.segmentation.config import ModelSection
from volumetric.errors import ConfigError, UnsupportedError
from volumetric.losses import deep_supervision
from volumetric.models import SliceUNet, slice_unet
from volumetric.models.slice_encoder import ENCODERS

_WEIGHTS = Path(__file__).parents[2] / "shared/data/weights/mobilenet_v2_features.pth"
_FEATURES = [16, 32, 64, 128, 256]
# Of segmentation-models-pytorch 0.6: Unet(name, in_channels=3, classes=1).
_PUBLISHED = {"resnet18": 14_328_209, "resnet34": 24_436_369, "resnet50": 32_521_105}


def _network(backbone: str = "mobilenet_v3_small", **choices) -> SliceUNet:
    torch.manual_seed(0)
    return slice_unet(backbone, **{"n_classes": 3, "features": [4, 8, 8, 8, 8], **choices})


@pytest.mark.parametrize("backbone", ENCODERS)
def test_the_encoder_halves_at_every_stage(backbone: str) -> None:
    network = _network(backbone).eval()
    x = torch.randn(1, 1, 64, 96)
    for halvings, (stage, width) in enumerate(
        zip(network.encoder, ENCODERS[backbone].widths, strict=True), 1
    ):
        x = stage(x)
        assert x.shape == (1, width, 64 >> halvings, 96 >> halvings)


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.tuples(*[st.integers(1, 45)] * 3),
    st.integers(0, 2),
    st.integers(1, 5),
)
def test_any_size_comes_back(
    batch: int, channels: int, shape: tuple[int, ...], axis: int, n_stages: int
) -> None:
    network = _network(n_channels=channels, slice_axis=axis, features=_FEATURES[:n_stages]).eval()
    with torch.inference_mode():
        assert network(torch.randn(batch, channels, *shape)).shape == (batch, 3, *shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_is_seen_for_itself(axis: int) -> None:
    network = _network(slice_axis=axis).eval()
    images = torch.randn(2, 1, 5, 6, 7)
    with torch.inference_mode():
        whole = network(images)
        for number in range(images.shape[2 + axis]):
            one = network(images.narrow(2 + axis, number, 1))
            expected = whole.narrow(2 + axis, number, 1)
            torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)


def test_doubling_an_odd_side_stays_in_place() -> None:
    """What lies at pixel i of a map came from pixels about 2i: doubled, it lies there again."""
    half = torch.arange(18.0)[None, None, None].expand(1, 1, 1, 18)
    doubled = torch.nn.functional.interpolate(half, scale_factor=2.0)[..., :35]
    assert doubled[0, 0, 0].tolist() == [i // 2 for i in range(35)]


@pytest.mark.parametrize("backbone", _PUBLISHED)
def test_counts_are_the_published_ones(backbone: str) -> None:
    """Their head has kernels of 3 and ours of 1, and ours sees the image itself as well."""
    with torch.device("meta"):
        network = slice_unet(backbone, n_channels=3, n_classes=1, features=_FEATURES)
    head = (16 * 9 + 1) - (16 + 1)
    stem = 9 * (3 * 16 + 16 * 16) + 2 * 2 * 16
    joined = 9 * 16 * 16
    count = sum(p.numel() for p in network.parameters())
    assert count == _PUBLISHED[backbone] - head + stem + joined


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
def test_overfits_two_cases(backbone: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 3, 17, 13)
    labels = (images[:, 0] > 0.5).long() + (images[:, 0] > 1.2).long()
    network = _network(backbone, features=[16, 16, 16]).train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(40):
        loss = deep_supervision(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None for p in network.parameters())
    assert (network(images).argmax(1) == labels).float().mean() > 0.95


def test_pretrained_weights_arrive_in_the_encoder() -> None:
    """Three channels: bit for bit. One: what the encoder finds is what it found in a grey copy."""
    if not _WEIGHTS.exists():
        pytest.skip("the weights are not beside this checkout")
    state = torch.load(_WEIGHTS, weights_only=True)
    network = _network("mobilenet_v2", n_channels=3, weights=_WEIGHTS)
    starts = (0, *ENCODERS["mobilenet_v2"].ends)
    n_found = 0
    for start, stage in zip(starts, network.encoder, strict=False):
        for name, value in stage.state_dict().items():
            layer, rest = name.split(".", 1)
            if "num_batches_tracked" not in rest:
                assert torch.equal(value, state[f"features.{start + int(layer)}.{rest}"])
                n_found += 1
    unused = [name for name in state if name.startswith("features.18.")]
    assert n_found == len([n for n in state if "num_batches" not in n]) - len(
        [n for n in unused if "num_batches" not in n]
    )
    grey = _network("mobilenet_v2", weights=_WEIGHTS).eval()
    image = torch.randn(1, 1, 40, 40)
    with torch.inference_mode():
        ours = torch.nn.Sequential(*grey.encoder)(image)
        theirs = torch.nn.Sequential(*network.eval().encoder)(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    with pytest.raises(UnsupportedError, match="weights-mismatch"):
        _network("resnet18", weights=_WEIGHTS)


def test_it_is_exported_and_compiled() -> None:
    network = _network("resnet18", features=[4, 8, 8]).eval()
    images = torch.randn(1, 1, 3, 19, 21)
    with torch.no_grad():
        expected = network(images)
        exported = torch.export.export(network, (images,)).module()
        torch.testing.assert_close(exported(images), expected, atol=1e-4, rtol=1e-4)
        compiled = torch.compile(network, backend="eager", dynamic=False)
        torch.testing.assert_close(compiled(images), expected, atol=1e-4, rtol=1e-4)


def test_refuses_what_is_no_encoder() -> None:
    with pytest.raises(ConfigError, match=r"vgg16.*mobilenet_v2"):
        _network("vgg16")
    with pytest.raises(ConfigError, match="6 stages"):
        _network(features=[4] * 6)


def test_the_configuration_knows_every_encoder() -> None:
    named = get_args(get_args(ModelSection.model_fields["backbone"].annotation)[0])
    assert sorted(named) == sorted(ENCODERS)

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import ResNet, get_model, get_model_weights

from tests.overfitting import count, opposite_motions, overfit
from tests.waking import wake
from volumetric.errors import ConfigError
from volumetric.models import convert_resnet
from volumetric.models.inflate import AcsConvolution

DEPTHS = ["resnet18", "resnet34", "resnet50"]


@pytest.fixture(scope="module")
def flat() -> ResNet:
    torch.manual_seed(0)
    network = get_model("resnet18", weights=None, num_classes=5)
    wake(network)
    return network


@pytest.mark.parametrize("halvings", [0, 3, 5])
@pytest.mark.parametrize("depth", [1, 9])
def test_equal_slices_are_answered_as_one_is_in_2d(flat: ResNet, depth: int, halvings: int) -> None:
    """Exactly, at the ends too: D is continued by its own ends."""
    network = convert_resnet(flat, how="inflate", depth_halvings=halvings).eval()
    image = torch.randn(2, 3, 33, 40)
    with torch.inference_mode():
        expected = flat(image)
        found = network(image[:, :, None].expand(-1, -1, depth, -1, -1))
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_bottlenecks_are_inflated_likewise() -> None:
    torch.manual_seed(0)
    flat = get_model("resnet50", weights=None, num_classes=3)
    wake(flat)
    image = torch.randn(1, 3, 33, 33)
    network = convert_resnet(flat, how="inflate").eval()
    with torch.inference_mode():
        found = network(image[:, :, None].expand(-1, -1, 3, -1, -1))
        torch.testing.assert_close(found, flat(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["inflate", "acs"])
def test_depth_is_halved_where_asked(flat: ResNet, how: str) -> None:
    for halvings, left in ((0, 33), (1, 17), (2, 9), (5, 2)):
        network = convert_resnet(flat, how=how, depth_halvings=halvings).eval().to("meta")
        maps = nn.Sequential(*list(network.children())[:-2])
        assert maps(torch.empty(1, 3, 33, 64, 47, device="meta")).shape == (1, 512, left, 2, 2)


@pytest.mark.parametrize("name", DEPTHS)
def test_acs_has_the_parameters_of_the_2d_network(name: str) -> None:
    with torch.device("meta"):
        flat = get_model(name, weights=None)
        network = convert_resnet(flat, how="acs")
    assert count(network) == get_model_weights(name).DEFAULT.meta["num_params"]
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (flat, network)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", [*DEPTHS, "resnext50_32x4d", "wide_resnet50_2"])
def test_inflated_kernels_are_as_deep_as_wide(name: str) -> None:
    with torch.device("meta"):
        flat = get_model(name, weights=None)
        network = convert_resnet(flat, how="inflate")
    grown = sum(p.numel() * (p.shape[-1] if p.ndim == 4 else 1) for p in flat.parameters())
    assert count(network) == grown
    if name == "resnet18":
        assert (round(count(flat) / 1e6, 1), round(grown / 1e6, 1)) == (11.7, 33.7)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(3, 8)),
    kernel=st.sampled_from([1, 3, 7]),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    dilation=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_each_third_is_the_2d_convolution_in_its_plane(
    channels: tuple[int, int],
    kernel: int,
    strides: tuple[int, int],
    shape: tuple[int, ...],
    dilation: int,
    seed: int,
) -> None:
    """Axial (H, W), coronal (D, W), sagittal (D, H): planes taken out and convolved one by one."""
    torch.manual_seed(seed)
    stride, depth_stride = strides
    padding = dilation * (kernel // 2)
    flat = nn.Conv2d(*channels, kernel, stride, padding, dilation=dilation, bias=False)
    volume = torch.randn(2, channels[0], *shape)
    found = AcsConvolution(flat, depth_stride=depth_stride)(volume)
    steps = (depth_stride, stride, stride)
    thirds = found.tensor_split(3, 1)
    kernels = flat.weight.tensor_split(3, 0)
    for axis, (third, kernel_2d) in enumerate(zip(thirds, kernels, strict=True)):
        in_plane = tuple(step for other, step in enumerate(steps) if other != axis)
        planes = [
            F.conv2d(volume.select(2 + axis, at), kernel_2d, None, in_plane, padding, dilation)
            for at in range(0, shape[axis], steps[axis])
        ]
        torch.testing.assert_close(third, torch.stack(planes, 2 + axis), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["inflate", "acs"])
def test_converted_networks_learn(flat: ResNet, how: str) -> None:
    before = {key: value.clone() for key, value in flat.state_dict().items()}
    network = convert_resnet(flat, how=how)
    clips = opposite_motions(n_channels=3, size=16, n_frames=4)
    F.cross_entropy(network.train()(clips), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert overfit(network, clips, steps=8, rate=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in flat.state_dict().items())


def test_what_cannot_be_converted() -> None:
    with torch.device("meta"):
        flat = get_model("resnet18", weights=None)
        for network, how in ((get_model("mobilenet_v2"), "acs"), (flat, "repeat")):
            with pytest.raises(ConfigError, match="inflate, acs"):
                convert_resnet(network, how=how)
        with pytest.raises(ConfigError, match="groups"):
            convert_resnet(get_model("resnext50_32x4d"), how="acs")
        for halvings in (-1, 6):
            with pytest.raises(ConfigError, match="Give 0 to 5"):
                convert_resnet(flat, how="acs", depth_halvings=halvings)

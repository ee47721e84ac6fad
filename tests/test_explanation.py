from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import nn

from tests.balls import SIZE, distances_to, make_balls, make_pairs, train_on_balls
from volumetric.errors import ConfigError, GeometryError, IntensityError, UnsupportedError
from volumetric.explanation import Explanation, explain, place_map
from volumetric.explanation.layers import find_layers
from volumetric.explanation.passing import Passing, watch
from volumetric.models import SliceNetwork, plain_cnn3d, slice_network, small_cnn3d, video_network
from volumetric.models.heads import SliceHead
from volumetric.preprocess import crop, orient, resample
from volumetric.volume import Volume

_NEAR = 5.5  # voxels: the ball, dilated by two


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv3d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm3d(8), nn.ReLU(inplace=True)),
        *(nn.Conv3d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm3d(16), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 2)),
    )


def _slices(aggregate: str, chunk: int | None = 8) -> SliceNetwork:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    return SliceNetwork(trunk, [SliceHead(16, 2, aggregate=aggregate)], chunk=chunk)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return train_on_balls(_network(), n_steps=40)


@pytest.fixture(scope="module", params=["attention", "mean", "max"])
def trained_slices(request) -> nn.Module:
    return train_on_balls(_slices(request.param), n_steps=40)


def _points_at(found: Explanation, distances: torch.Tensor) -> bool:
    return bool(distances.flatten()[found.map.argmax()] < _NEAR)


def _mass(found: Explanation, distances: torch.Tensor) -> float:
    return float(found.map[distances < _NEAR].sum() / found.map.sum())


def _explain_balls(network: nn.Module) -> tuple[float, float, float]:
    """How often maps of held-out balls point at them, and their mass there over its volume."""
    balls = make_balls(20, seed=5)
    with torch.inference_mode():
        right = network(balls.images).argmax(1) == balls.labels
    assert right.float().mean() >= 0.9, "the network has not learnt the task"
    found = [explain(network, image) for image in balls.images]
    pairs = list(zip(found, balls.distances, strict=True))
    hits = [_points_at(one, distances) for one, distances in pairs]
    shares = [float((distances < _NEAR).float().mean()) for distances in balls.distances]
    masses = [_mass(one, distances) for one, distances in pairs]
    return float(np.mean(hits)), float(np.mean(masses)), float(np.mean(shares))


def test_map_points_at_what_decides(trained: nn.Module) -> None:
    hits, mass, share = _explain_balls(trained)
    assert hits >= 0.9
    assert mass > 3 * share


def test_map_of_slices_points_at_what_decides(trained_slices: nn.Module) -> None:
    hits, mass, share = _explain_balls(trained_slices)
    assert hits >= 0.9
    assert mass > 3 * share


def test_slices_that_hold_the_ball_count_most(trained_slices: nn.Module) -> None:
    balls = make_balls(20, seed=6)
    weights = torch.stack([explain(trained_slices, one).slice_weights for one in balls.images])
    torch.testing.assert_close(weights.sum(1), torch.ones(20))
    away = (weights.argmax(1) - balls.centres[:, 0]).abs()
    assert (away < 3.5).float().mean() >= 0.9
    inside = balls.distances.amin((2, 3)) < 3.5
    held = (weights * inside).sum(1)
    assert (held > 1.5 * inside.float().mean(1)).float().mean() >= 0.9


def test_each_class_has_a_map_of_its_own(trained: nn.Module) -> None:
    """A dark and a bright ball in one volume: each class points at its own."""
    images, distances = make_pairs(8, seed=3)
    right = wrong = 0
    for image, (dark, bright) in zip(images, distances, strict=True):
        maps = [explain(trained, image, target=target) for target in (0, 1)]
        right += _points_at(maps[0], dark) + _points_at(maps[1], bright)
        wrong += _points_at(maps[0], bright) + _points_at(maps[1], dark)
        assert not torch.allclose(maps[0].map, maps[1].map, atol=0.1)
    assert right >= 14
    assert wrong == 0


def _forget(network: nn.Module, last: int) -> nn.Module:
    """A copy whose last modules that learn have fresh weights (Adebayo 2018)."""
    torch.manual_seed(9)
    fresh = copy.deepcopy(network)
    learning = [module for module in fresh.modules() if isinstance(module, nn.Conv3d | nn.Linear)]
    for module in learning[-last:]:
        module.reset_parameters()
    return fresh


@pytest.mark.parametrize("last", [1, 3])
def test_map_depends_on_what_was_learnt(trained: nn.Module, last: int) -> None:
    balls = make_balls(12, seed=7)
    fresh = _forget(trained, last)
    similar = []
    for image, label in zip(balls.images, balls.labels, strict=True):
        own = explain(trained, image, target=int(label)).map
        other = explain(fresh, image, target=int(label)).map
        # Ranks of a constant map are none at all: it is not similar to any.
        constant = float(other.std()) == 0
        similar.append(0.0 if constant else spearmanr(own.flatten(), other.flatten()).statistic)
    assert np.mean(similar) < 0.5
    again = explain(copy.deepcopy(trained), balls.images[0]).map
    torch.testing.assert_close(again, explain(trained, balls.images[0]).map)


def test_map_by_hand(trained: nn.Module) -> None:
    """Before a mean and a linear layer, the map is the features weighted as the layer does."""
    image = make_balls(1, seed=8).images[0]
    found = explain(trained, image, target=1)
    with torch.no_grad():
        features = trained[:6](image[None])[0]
        weights = trained[-1].weight[1] / features[0].numel()
        expected = torch.einsum("f,fdhw->dhw", weights, features).relu()
    assert found.grid == (5, 5, 5)
    assert found.layer == "5"
    # Strided convolutions padded by one have their centres at 0, 4, 8, …
    torch.testing.assert_close(found.map[::4, ::4, ::4] * found.largest, expected)
    assert found.map.max() == 1
    assert found.map.dtype == torch.float32
    assert found.map.shape == (SIZE, SIZE, SIZE)
    torch.testing.assert_close(found.map[2, 0, 0] * 2, found.map[0, 0, 0] + found.map[4, 0, 0])


@pytest.mark.parametrize("aggregate", ["mean", "max", "attention", "mean_max", "conv3d"])
def test_map_of_slices_by_hand(aggregate: str) -> None:
    """Against plain gradients of the whole network, all slices at once."""
    torch.manual_seed(0)
    choices = {"n_channels": 2, "n_classes": 3, "streams": 2, "members": 2, "chunk": 3}
    network = slice_network("resnet18", aggregate=aggregate, shift=True, **choices).eval()
    image = torch.randn(2, 5, 64, 64)
    found = explain(network, image, target=2)
    network.chunk = None
    kept = []
    stage = network.get_submodule("trunk.layer3")
    handle = stage.register_forward_hook(lambda *given: kept.append(given[2]))
    logits, counted = network.weigh_slices(image[None])
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 2], kept)
    maps = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).reshape(2, 5, 4, 4).sum(0).relu()
    assert found.grid == (5, 4, 4)
    torch.testing.assert_close(
        found.map[:, ::16, ::16] * found.largest, maps.detach(), rtol=1e-3, atol=1e-6
    )
    if aggregate == "attention":
        assert found.slices_by == "attention"
        torch.testing.assert_close(found.slice_weights, counted[0].detach())
    else:
        assert found.slices_by == "gradient"


@pytest.mark.parametrize("chunk", [1, 3, 20])
@pytest.mark.parametrize("aggregate", ["attention", "max"])
def test_chunks_change_nothing(aggregate: str, chunk: int) -> None:
    network = _slices(aggregate, chunk=None).eval()
    image = torch.randn(1, 7, 20, 20)
    whole = explain(network, image, target=1)
    network.chunk = chunk
    seen = []
    handle = network.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    found = explain(network, image, target=1)
    handle.remove()
    torch.testing.assert_close(found.map, whole.map)
    torch.testing.assert_close(found.slice_weights, whole.slice_weights)
    assert max(seen) <= chunk


def _layer_of(network: nn.Module, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    torch.manual_seed(0)
    found = explain(network, torch.randn(shape), target=0)
    assert torch.isfinite(found.map).all()
    return found.layer, found.grid


@pytest.mark.parametrize(
    ("side", "layer", "grid"),
    [
        (64, "stages.2", (4, 4, 4)),
        (28, "stages.1", (8, 4, 4)),
        (12, "stem", (8, 6, 6)),
        (4, "stem", (8, 2, 2)),
    ],
)
def test_layer_of_a_small_network(side: int, layer: str, grid: tuple[int, ...]) -> None:
    assert _layer_of(small_cnn3d(1, 2, width=4), (1, 8, side, side)) == (layer, grid)


def test_layer_of_a_plain_network() -> None:
    network = plain_cnn3d(1, 2, strides=[(2, 2, 2)] * 3, width=4)
    assert _layer_of(network, (1, 32, 32, 32)) == ("stages", (4, 4, 4))


@pytest.mark.parametrize(
    ("name", "shape", "layer", "grid"),
    [
        ("r2plus1d_18", (3, 8, 32, 32), "layer2", (4, 8, 8)),
        ("s3d", (3, 16, 64, 64), "features.12", (4, 4, 4)),
        ("swin3d_t", (3, 8, 32, 32), "features.2", (4, 4, 4)),
        ("mvit_v2_s", (3, 8, 32, 32), "input of blocks.3.attn", (4, 4, 4)),
    ],
)
def test_layer_of_a_video_network(
    name: str, shape: tuple[int, ...], layer: str, grid: tuple[int, ...]
) -> None:
    """Never within a block, where a shortcut leads past it."""
    network = video_network(name, n_classes=2, shape=shape[1:])
    assert _layer_of(network, shape) == (layer, grid)


def test_layer_of_monais_networks() -> None:
    from monai.networks.nets import DenseNet, resnet18

    dense = DenseNet(
        spatial_dims=3, in_channels=1, out_channels=2, block_config=(2, 2, 2), init_features=8
    )
    assert _layer_of(dense, (1, 32, 32, 32)) == ("features.transition2.conv", (4, 4, 4))
    residual = resnet18(spatial_dims=3, n_input_channels=1, num_classes=2)
    assert _layer_of(residual, (1, 32, 32, 32)) == ("layer3", (4, 4, 4))


def test_layer_can_be_chosen(trained: nn.Module) -> None:
    image = make_balls(1, seed=8).images[0]
    found = explain(trained, image, layer=trained[2])
    assert found.layer == "2"
    assert found.grid == (10, 10, 10)
    with pytest.raises(ConfigError, match="no module of the network"):
        explain(trained, image, layer=nn.ReLU())
    with pytest.raises(UnsupportedError, match="no voxels are left"):
        explain(trained, image, layer=trained[-1])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(2, 5), st.integers(2, 3), st.integers(0, 1), st.booleans()),
        min_size=1,
        max_size=3,
    )
)
def test_centres_of_voxels(steps: list[tuple[int, int, int, bool]]) -> None:
    """A voxel lies in the middle of what it depends on, told by gradients."""
    n, layers = 300, []
    for kernel, stride, padding, pooled in steps:
        sizes = (kernel, 1, 1), (stride, 1, 1), (padding, 0, 0)
        layers.append(nn.MaxPool3d(*sizes) if pooled else nn.Conv3d(1, 1, *sizes))
    image = torch.zeros(1, 1, n, 2, 2)
    passings: list[Passing] = []
    network = nn.Sequential(*layers)
    visit, same = lambda one, _: passings.append(one), lambda tensor: tensor
    with watch(network, enter=same, visit=visit, leave=same), torch.no_grad():
        output = network(image)
    first, step = find_layers(passings, tuple(image.shape))[-1].centres[0]
    # The same steps on positions: a window's middle is the mean of its first and last voxel.
    positions = torch.arange(n, dtype=torch.float64)
    for kernel, stride, padding, _ in steps:
        inner = torch.nn.functional.pad(positions, (padding, padding), value=torch.nan)
        windows = inner.unfold(0, kernel, stride)
        positions = (windows[:, 0] + windows[:, -1]) / 2
    expected = first + step * torch.arange(output.shape[2], dtype=torch.float64)
    known = torch.isfinite(positions)
    assert len(positions) == len(expected)
    torch.testing.assert_close(expected[known], positions[known])


def test_network_is_left_as_it_was() -> None:
    network = _network().train()
    network[4].eval()
    for parameter in network[0].parameters():
        parameter.requires_grad_(False)
    network[-1].weight.grad = torch.ones_like(network[-1].weight)
    state = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    image = torch.randn(1, SIZE, SIZE, SIZE)
    given = image.clone()
    with torch.inference_mode():
        explain(network, image, target=0)
    with pytest.raises(ConfigError, match="class 2 is asked for"):
        explain(network, image, target=2)
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert [p.grad is None for p in network.parameters()] == [True] * 6 + [False, True]
    assert torch.equal(network[-1].weight.grad, torch.ones_like(network[-1].weight))
    assert torch.equal(image, given)


def test_what_speaks_against_a_class_gives_no_map(trained: nn.Module) -> None:
    network = copy.deepcopy(trained)
    network[-1].weight.data[0] = -1
    image = make_balls(1, seed=8).images[0]
    found = explain(network, image, target=0)
    assert not found.map.any()
    assert found.largest == 0
    assert found.slice_weights is None
    assert "speaks against the class" in found.reason
    network[-1].weight.data[0] = 0
    assert "does not depend" in explain(network, image, target=0).reason


def test_refuses(trained: nn.Module) -> None:
    image = torch.randn(1, SIZE, SIZE, SIZE)
    with pytest.raises(GeometryError, match="four axes"):
        explain(trained, image[0])
    with pytest.raises(IntensityError, match="not finite"):
        explain(trained, torch.full_like(image, torch.nan))
    with pytest.raises(UnsupportedError, match="not with logits"):
        explain(trained[:6], image)
    with pytest.raises(UnsupportedError, match="no voxels are left"):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(SIZE**3, 2)), image)


def _explanation(values: torch.Tensor) -> Explanation:
    return Explanation(values, 1.0, 0, None, "map", "", (1, 1, 1))


@pytest.mark.parametrize("tilt", [0.0, 0.2])
def test_map_goes_back_to_the_scan(tilt: float) -> None:
    """Oriented, resampled and cropped for the network: the peak is found where it lies in mm."""
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, -1.0], [0, -1.5, 0], [3.0, 0, 0]])
    affine[:3, 3] = (40, -30, 12)
    scan = Volume(torch.zeros(1, 18, 36, 48, dtype=torch.int16), affine)
    seen = crop(resample(orient(scan), (2.0, 2.0, 2.0)), (3, 2, 2), (20, 20, 16))
    peak = np.array([9, 11, 6])
    values = torch.exp(-distances_to(torch.tensor(peak)[None])[0, :, :, :16].square() / 18)
    placed = place_map(_explanation(values), seen, grid=scan)
    assert placed.shape == scan.shape
    assert np.array_equal(placed.affine, scan.affine)
    at = np.array(np.unravel_index(int(placed.data.argmax()), scan.shape))
    expected = seen.affine @ np.append(peak, 1)
    found = scan.affine @ np.append(at, 1)
    assert np.abs(expected - found).max() <= 1.8  # half a voxel of the scan, turned
    assert placed.data.min() >= 0
    assert placed.data.max() == pytest.approx(1, abs=0.1)
    outside = scan.affine @ np.array([0, 0, 0, 1.0])
    index = np.linalg.inv(seen.affine) @ outside
    assert (index[:3] < -1).any()
    assert placed.data[0, 0, 0, 0] == 0
    with pytest.raises(GeometryError, match="new data has"):
        place_map(_explanation(values[1:]), seen, grid=scan)


def _three_planes() -> SliceNetwork:
    one = _slices("attention")
    heads = [SliceHead(16, 2, aggregate="attention") for _ in range(3)]
    return SliceNetwork(one.trunk, heads, planes=3, chunk=8)


def test_map_of_three_planes_points_at_what_decides() -> None:
    hits, mass, share = _explain_balls(train_on_balls(_three_planes(), n_steps=40))
    assert hits >= 0.9
    assert mass > 3 * share


def test_three_planes_each_count_for_a_third() -> None:
    network = _three_planes().train()
    image = torch.randn(1, 12, 16, 20)
    found = explain(network, image, target=1)
    assert all(module.training for module in network.modules())
    network.eval()
    ways = [image.movedim(1 + axis, 1) for axis in range(3)]
    answers = [network.plane(axis)(way[None]) for axis, way in enumerate(ways)]
    torch.testing.assert_close(torch.stack(answers).mean(0), network(image[None]))
    own = [explain(network.plane(axis), way, target=1) for axis, way in enumerate(ways)]
    mean = sum((one.map * one.largest).movedim(0, axis) for axis, one in enumerate(own)) / 3
    torch.testing.assert_close(found.map * found.largest, mean)
    assert float(found.map.max()) == pytest.approx(1)
    assert found.slice_weights is not None
    torch.testing.assert_close(found.slice_weights, own[0].slice_weights)


def test_three_planes_explain_the_likeliest_class() -> None:
    network = _three_planes().eval()
    image = torch.randn(1, 12, 16, 20)
    assert explain(network, image).class_index == int(network(image[None])[0].argmax())

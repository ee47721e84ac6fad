from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import ConfigError, UnsupportedError
from volumetric.models import slice_network
from volumetric.models.heads import MapHead, SliceHead
from volumetric.models.slices import BACKBONES, SliceNetwork, shift_slices

_WEIGHTS = Path(__file__).parents[2] / "shared/data/weights/mobilenet_v2_features.pth"
AGGREGATES = ["mean", "max", "attention", "mean_max", "conv3d"]
COUNTS = {"mobilenet_v2": 3_504_872, "mobilenet_v3_small": 2_542_856, "resnet18": 11_689_512}


def _network(backbone: str = "mobilenet_v3_small", **choices):
    torch.manual_seed(0)
    return slice_network(backbone, **{"n_channels": 3, "n_classes": 4, **choices})


def _awake(network: nn.Module) -> nn.Module:
    """The same with running means that differ from channel to channel, as after training."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("shift", "aggregate"),
    [(False, "attention"), (True, "attention"), (True, "mean_max"), (True, "conv3d")],
)
def test_odd_sizes_and_channels(backbone: str, shift: bool, aggregate: str) -> None:
    network = _network(backbone, n_channels=2, shift=shift, aggregate=aggregate).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 2, 5, 33, 47)).shape == (2, 4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_counts_are_the_published_ones(backbone: str) -> None:
    """Torchvision's count, less its own classifier, plus ours; a shift costs nothing."""
    from torchvision.models import get_model

    features = BACKBONES[backbone].n_features
    with torch.device("meta"):
        original = get_model(backbone)
        ours = _network(backbone, shift=True)
    classifier = original.get_submodule(BACKBONES[backbone].head)
    theirs = sum(p.numel() for p in original.parameters())
    assert theirs == COUNTS[backbone]
    expected = theirs - sum(p.numel() for p in classifier.parameters()) + 4 * (features + 1)
    assert sum(p.numel() for p in ours.parameters()) == expected


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
def test_chunks_change_nothing(shift: bool, aggregate: str, chunk: int) -> None:
    network = _awake(_network(shift=shift, aggregate=aggregate, chunk=None))
    images = torch.randn(3, 3, 5, 32, 32)
    with torch.inference_mode():
        whole = network(images)
        network.chunk = chunk
        torch.testing.assert_close(network(images), whole, atol=1e-5, rtol=1e-4)


def test_no_more_slices_go_through_than_a_chunk() -> None:
    network = _network(chunk=4).eval()
    seen = []
    network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with torch.inference_mode():
        network(torch.randn(2, 3, 5, 32, 32))
    assert seen == [4, 4, 2]


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("aggregate", ["mean", "max", "attention"])
def test_one_slice_is_the_2d_network(shift: bool, aggregate: str) -> None:
    network = _awake(_network("resnet18", shift=shift, aggregate=aggregate))
    plain = _awake(_network("resnet18"))
    image = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        expected = network.heads[0].answer(plain.trunk(image))
        torch.testing.assert_close(network(image[:, :, None]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("aggregate", ["mean", "max", "attention"])
def test_weights_of_slices(aggregate: str) -> None:
    network = _awake(_network(aggregate=aggregate))
    images = torch.randn(2, 3, 6, 32, 32)
    with torch.inference_mode():
        logits, weights = network.weigh_slices(images)
        features = torch.stack([network.trunk(images[:, :, d]) for d in range(6)], 1)
    assert torch.equal(logits, network(images))
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    pooled = features.amax(1) if aggregate == "max" else (weights[..., None] * features).sum(1)
    torch.testing.assert_close(network.heads[0].answer(pooled), logits, atol=1e-4, rtol=1e-4)


def test_the_largest_features_are_shared_by_hand() -> None:
    """Four features of three slices: the first's, the last's, all three's, and two's."""
    network = SliceNetwork(nn.Flatten(), [SliceHead(4, 2, aggregate="max")])
    features = torch.tensor([[5.0, 0, 2, 7], [1, 3, 2, 7], [1, 4, 2, 0]])
    _, weights = network.weigh_slices(features.view(1, 3, 4, 1, 1).transpose(1, 2))
    expected = torch.tensor([[1 + 1 / 3 + 1 / 2, 1 / 3 + 1 / 2, 1 + 1 / 3]]) / 4
    torch.testing.assert_close(weights, expected)


def test_gated_attention_by_hand() -> None:
    attention = _network(aggregate="attention").heads[0].attention
    h = torch.randn(2, 5, 576)
    v = torch.tanh(h @ attention.value.weight.T + attention.value.bias)
    u = torch.sigmoid(h @ attention.gate.weight.T + attention.gate.bias)
    scores = torch.exp(((v * u) @ attention.score.weight.T + attention.score.bias)[..., 0])
    torch.testing.assert_close(attention(h), scores / scores.sum(1, keepdim=True))


def test_shift_by_hand() -> None:
    """As in the paper's own code, which assigns slices of a tensor of zeros."""
    x = torch.randn(2 * 5, 16, 3, 4)
    v = x.view(2, 5, 16, 3, 4)
    expected = torch.zeros_like(v)
    expected[:, :-1, :2] = v[:, 1:, :2]
    expected[:, 1:, 2:4] = v[:, :-1, 2:4]
    expected[:, :, 4:] = v[:, :, 4:]
    assert torch.equal(shift_slices(x, depth=5), expected.view_as(x))


@pytest.mark.parametrize(
    ("backbone", "shifts"), [("mobilenet_v2", 10), ("mobilenet_v3_small", 6), ("resnet18", 8)]
)
def test_every_residual_branch_is_shifted(backbone: str, shifts: int) -> None:
    with torch.device("meta"):
        network = _network(backbone, shift=True)
    found = [name for name, _ in network.named_modules() if name.endswith(".branch")]
    assert len(found) == shifts


@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_are_a_sixteenth_of_the_frame(backbone: str) -> None:
    network = _network(backbone, aggregate="conv3d").eval()
    with torch.inference_mode():
        maps = network.look(torch.randn(2, 3, 4, 48, 80))
    assert maps.shape == (2, BACKBONES[backbone].n_maps, 4, 3, 5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_mean_and_the_largest_of_each_map(backbone: str) -> None:
    """The mean is what the 2D network makes of a slice; the largest lies above it."""
    network = _awake(_network(backbone, aggregate="mean_max"))
    plain = _awake(_network(backbone))
    images = torch.randn(2, 3, 4, 80, 96)
    with torch.inference_mode():
        found = network.look(images)
        mean, largest = found.chunk(2, 1)
        maps = network.trunk(images[0, :, 1][None])
        if backbone != "mobilenet_v3_small":  # whose own pooling leads on to more layers
            torch.testing.assert_close(mean, plain.look(images), atol=1e-5, rtol=1e-4)
    assert found.shape[2:] == (4, 1, 1)
    assert (largest >= mean).all()
    expected = maps.flatten(2).max(2).values[0]
    torch.testing.assert_close(largest[0, :, 1, 0, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_streams_go_through_one_trunk(aggregate: str) -> None:
    network = _awake(_network(n_channels=6, streams=2, aggregate=aggregate, chunk=3))
    images = torch.randn(2, 6, 5, 32, 32)
    with torch.inference_mode():
        found = network.look(images)
        network.streams = 1
        alone = [network.look(images[:, part]) for part in (slice(3), slice(3, 6))]
    torch.testing.assert_close(found, torch.cat(alone, 1), atol=1e-5, rtol=1e-4)
    first = next(m for m in network.trunk.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 3


def test_shifts_stay_within_a_stream() -> None:
    network = _awake(_network("resnet18", n_channels=6, streams=2, shift=True))
    images = torch.randn(2, 6, 5, 32, 32)
    other = images.clone()
    other[:, 3:] = 0
    with torch.inference_mode():
        found, changed = network.look(images), network.look(other)
    assert torch.equal(found[:, :512], changed[:, :512])
    assert not torch.equal(found[:, 512:], changed[:, 512:])


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_members_are_averaged(aggregate: str) -> None:
    network = _awake(_network(aggregate=aggregate, members=3))
    images = torch.randn(2, 3, 5, 32, 32)
    with torch.inference_mode():
        found = network.look(images)
        answers = torch.stack([head(found) for head in network.heads])
        torch.testing.assert_close(network(images), answers.mean(0))
    assert not torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_features_are_standardised(aggregate: str) -> None:
    """Other units of the features, told to the head, change nothing."""
    head = _network(aggregate=aggregate).heads[0].eval()
    n_features = len(head.centre)
    found = torch.randn(2, n_features, 6, *((3, 4) if aggregate == "conv3d" else (1, 1)))
    unit, origin = torch.rand(n_features) + 0.5, torch.randn(n_features)
    with torch.inference_mode():
        expected = head(found)
        head.centre.copy_(origin)
        head.spread.copy_(unit)
        moved = found * unit[:, None, None, None] + origin[:, None, None, None]
        torch.testing.assert_close(head(moved), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 16])
def test_maps_of_any_length(depth: int) -> None:
    head = MapHead(5, 3).eval()
    with torch.inference_mode():
        assert torch.isfinite(head(torch.randn(2, 5, depth, 1, 3))).all()


def test_maps_tell_the_order_of_slices() -> None:
    torch.manual_seed(0)
    head = MapHead(5, 3).eval()
    maps = torch.randn(2, 5, 9, 4, 4)
    with torch.inference_mode():
        assert not torch.allclose(head(maps), head(maps.flip(2)), atol=1e-4)


def _opposite_motions() -> torch.Tensor:
    """A bar that goes right, and the same frames backwards: (2, 3, 8, 32, 32)."""
    column = torch.arange(32)
    frames = torch.stack([(column >= 4 * t) & (column < 4 * t + 4) for t in range(8)])
    clip = frames.float()[None, :, None, :].expand(3, -1, 32, -1)
    return torch.stack([clip, clip.flip(1)])


@pytest.mark.parametrize("aggregate", ["mean", "max", "attention"])
def test_frames_alone_do_not_tell_motions_apart(aggregate: str) -> None:
    network = _awake(_network(aggregate=aggregate))
    with torch.inference_mode():
        forwards, backwards = network(_opposite_motions())
    torch.testing.assert_close(forwards, backwards, atol=1e-5, rtol=1e-4)


def _overfit(network: nn.Module, steps: int) -> float:
    clips, labels = _opposite_motions(), torch.tensor([0, 1])
    network.heads[0].answer[0].p = 0.0
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        loss = F.cross_entropy(network.train()(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_shifted_frames_tell_motions_apart() -> None:
    assert _overfit(_network("resnet18", n_classes=2, shift=True), 12) < 0.1
    assert _overfit(_network("resnet18", n_classes=2), 12) > 0.6


@pytest.mark.parametrize(
    "choices",
    [{"shift": True, "aggregate": "attention"}, {"aggregate": "conv3d", "members": 2}],
    ids=lambda choices: choices["aggregate"],
)
def test_exports(choices: dict) -> None:
    """Number of slices and size are fixed by an export; it is the batch that varies."""
    network = _awake(_network(n_channels=6, streams=2, chunk=None, **choices))
    images = torch.randn(2, 6, 4, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=16)
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    other = torch.randn(3, 6, 4, 32, 32)
    torch.testing.assert_close(exported.module()(other), network(other), atol=1e-4, rtol=1e-3)


def test_imagenet_weights_without_a_head() -> None:
    if not _WEIGHTS.exists():
        pytest.skip("the weights are not beside this checkout")
    network = _network("mobilenet_v2", weights=_WEIGHTS)
    state = torch.load(_WEIGHTS, weights_only=True)
    loaded = network.trunk.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    grey = _network("mobilenet_v2", weights=_WEIGHTS, n_channels=1).eval()
    image = torch.rand(1, 1, 2, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            grey.trunk(image[:, :, 0]),
            network.eval().trunk(image[:, :, 0].expand(-1, 3, -1, -1)),
            atol=1e-3,
            rtol=1e-3,
        )
    with pytest.raises(UnsupportedError, match="not the weights of resnet18"):
        _network("resnet18", weights=_WEIGHTS)


def test_refuses_what_is_not_there() -> None:
    for choices in ({"backbone": "vgg"}, {"aggregate": "sum"}, {"chunk": 0}, {"n_channels": 0}):
        with pytest.raises(ConfigError):
            _network(**choices)

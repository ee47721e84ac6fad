from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import ConfigError, GeometryError
from volumetric.models import slice_network
from volumetric.models.heads import SliceHead
from volumetric.models.maps import MapHead
from volumetric.models.norms import freeze_norm
from volumetric.models.shift import shift_slices
from volumetric.models.slices import SliceNetwork

AGGREGATES = ["mean", "max", "attention", "mean_max", "conv3d", "transformer", "lstm"]


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


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("shape", [(2, 2, 5, 33, 47), (1, 2, 1, 20, 9)])
def test_odd_sizes_and_channels(aggregate: str, shape: tuple[int, ...]) -> None:
    choices = {"n_channels": 2, "aggregate": aggregate, "shift": True, "neighbours": 1, "planes": 3}
    network = _network(**choices).eval()
    with torch.inference_mode():
        logits, counted = network.weigh_slices(torch.randn(shape))
    assert logits.shape == (shape[0], 4)
    assert counted.shape == (shape[0], sum(shape[2:]))
    torch.testing.assert_close(counted.sum(1), torch.ones(shape[0]))


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("chunk", [1, 3, 100])
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
    assert torch.equal(shift_slices(x, torch.arange(10) % 5 == 0), expected.view_as(x))


@pytest.mark.parametrize(
    ("backbone", "shifts"),
    [
        ("mobilenet_v2", 10),
        ("mobilenet_v3_small", 6),
        ("mobilenet_v3_large", 10),
        ("resnet18", 8),
        ("resnet34", 16),
        ("resnet50", 16),
        ("efficientnet_b0", 9),
        ("efficientnet_v2_s", 35),
        ("convnext_tiny", 18),
    ],
)
def test_every_residual_branch_is_shifted(backbone: str, shifts: int) -> None:
    with torch.device("meta"):
        network = _network(backbone, shift=True)
    found = [name for name, _ in network.named_modules() if name.endswith(".branch")]
    assert len(found) == shifts


def test_the_mean_and_the_largest_of_each_map() -> None:
    network = _awake(_network(aggregate="mean_max"))
    images = torch.randn(2, 3, 4, 80, 96)
    with torch.inference_mode():
        found = network.look(images)
        maps = network.trunk(images[0, :, 1][None])[0].flatten(1)
    assert found.shape == (2, 2 * 576, 4, 1, 1)
    expected = torch.cat([maps.mean(1), maps.max(1).values])
    torch.testing.assert_close(found[0, :, 1, 0, 0], expected, atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_which_heads_tell_the_order_of_slices(aggregate: str) -> None:
    head = _network(aggregate=aggregate).heads[0].eval()
    found = torch.randn(2, len(head.centre), 6, *((4, 4) if aggregate == "conv3d" else (1, 1)))
    with torch.inference_mode():
        moved = (head(found) - head(found.flip(2))).abs().max()
    tells = aggregate in ("conv3d", "transformer", "lstm")
    assert moved > 1e-3 if tells else moved < 1e-5


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_padding_counts_for_nothing(aggregate: str, shift: bool, planes: int) -> None:
    """A padded batch answers as each image does alone, whatever is in the padding."""
    choices = {"n_channels": 2, "streams": 2 if planes == 1 else 1, "neighbours": 1, "chunk": 4}
    network = _awake(_network(aggregate=aggregate, shift=shift, planes=planes, **choices))
    images, lengths = torch.randn(3, 2, 6, 32, 40), torch.tensor([4, 1, 6])
    for image, n in zip(images, lengths, strict=True):
        image[:, n:] = torch.nan
    with torch.inference_mode():
        logits, counted = network.weigh_slices(images, lengths)
        for image, n, answer, shares in zip(images, lengths, logits, counted, strict=True):
            alone, own = network.weigh_slices(image[None, :, :n])
            torch.testing.assert_close(answer, alone[0], atol=1e-5, rtol=1e-4)
            assert (shares[n:6] == 0).all()
            there = torch.cat([shares[:n], shares[6:]])
            torch.testing.assert_close(there, own[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_heads_pass_over_what_padding_holds(aggregate: str) -> None:
    head = _network(aggregate=aggregate).heads[0].eval()
    grid = (3, 4) if aggregate == "conv3d" else (1, 1)
    found, lengths = torch.randn(2, len(head.centre), 5, *grid), torch.tensor([3, 5])
    other = found.clone()
    other[0, :, 3:] = torch.nan
    with torch.inference_mode():
        assert torch.equal(head(found, lengths), head(other, lengths))


def test_padding_is_not_in_the_statistics_of_batches() -> None:
    """In training too: batch norm sees the slices that are there."""
    networks = [_network("resnet18", shift=True).train() for _ in range(2)]
    images = torch.randn(2, 3, 4, 32, 32)
    networks[0].look(images[:, :, :3])
    networks[1].look(images, torch.tensor([3, 3]))
    for own, other in zip(*(network.buffers() for network in networks), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("lengths", [[0, 3], [1, 4], [2], [1.5, 2.0]])
def test_refuses_lengths_that_cannot_be(lengths: list[float]) -> None:
    for planes in (1, 3):
        with pytest.raises(GeometryError, match="from 1 to 3"):
            _network(planes=planes)(torch.randn(2, 3, 3, 32, 32), torch.tensor(lengths))


def test_neighbours_are_channels() -> None:
    """In order, each with its own channels, the slices at the ends again."""
    network = _network(n_channels=2, neighbours=2, chunk=2).eval()
    seen: list[torch.Tensor] = []
    network.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 2, 4, 32, 32)
    with torch.inference_mode():
        network(images)
    d = torch.tensor([[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]])
    expected = images[:, :, d].permute(0, 2, 3, 1, 4, 5).reshape(8, 10, 32, 32)
    assert torch.equal(torch.cat(seen), expected)


@pytest.mark.parametrize("aggregate", ["mean", "lstm"])
def test_three_planes_are_three_networks_of_one_trunk(aggregate: str) -> None:
    network = _awake(_network(aggregate=aggregate, planes=3, members=2, chunk=5))
    images = torch.randn(2, 3, 5, 33, 40)
    turned = [images, images.permute(0, 1, 3, 2, 4), images.permute(0, 1, 4, 2, 3)]
    with torch.inference_mode():
        answers = [
            SliceNetwork(network.trunk, list(network.heads)[2 * axis : 2 * axis + 2])(view)
            for axis, view in enumerate(turned)
        ]
        torch.testing.assert_close(network(images), sum(answers) / 3, atol=1e-5, rtol=1e-4)
    assert len(network.heads) == 6


def _learn(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients and running means after one pass."""
    torch.manual_seed(3)
    network.train()(images).square().sum().backward()
    grads = {name: p.grad for name, p in network.named_parameters()}
    return {**grads, **dict(network.named_buffers())}


@pytest.mark.parametrize("aggregate", ["attention", "conv3d"])
def test_activations_computed_twice_are_counted_once(aggregate: str) -> None:
    """In one chunk gradients and running means are those of a network that keeps activations."""
    choices = {"aggregate": aggregate, "shift": True, "neighbours": 1}
    networks = [_network("mobilenet_v3_small", checkpoint=twice, **choices) for twice in (0, 1)]
    images = torch.randn(2, 3, 4, 40, 32)
    expected, found = (_learn(network, images) for network in networks)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_activations_are_not_kept() -> None:
    """What the backward pass keeps does not hold a chunk's inner layers."""
    images = torch.randn(1, 3, 8, 32, 32)
    kept = []
    for twice in (False, True):
        network = freeze(_network("resnet18", checkpoint=twice, chunk=3))
        sizes: list[int] = []

        def pack(x: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            network.train()(images)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 10


def test_frozen_norms_let_chunks_learn_as_the_whole() -> None:
    networks = [freeze(_network("resnet18", checkpoint=twice, chunk=3)) for twice in (False, True)]
    images = torch.randn(2, 3, 4, 32, 32)
    expected, found = (_learn(network, images) for network in networks)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3, msg=name)


def freeze(network: SliceNetwork) -> SliceNetwork:
    freeze_norm(network.trunk)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def test_frozen_norms_survive_training_and_copies() -> None:
    network = _awake(_network("resnet18"))
    plain = network.state_dict()
    freeze_norm(network.trunk)
    assert network.state_dict().keys() == plain.keys()
    before = {name: value.clone() for name, value in network.named_buffers()}
    image = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        expected = network.eval().trunk(image)
        for one in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(one.train().trunk(image), expected)
            assert all(torch.equal(value, before[name]) for name, value in one.named_buffers())
    network.train().trunk(image).sum().backward()
    assert network.trunk.bn1.weight.grad is not None


def test_frozen_norms_compile() -> None:
    network = _awake(_network("mobilenet_v3_small"))
    freeze_norm(network.trunk)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = torch.randn(2, 3, 2, 32, 32)
    compiled = torch.compile(network.train(), backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images), atol=1e-4, rtol=1e-3)


# torch's own LSTM puts its weights back in order while it is traced, and torch warns of that.
@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights")
@pytest.mark.parametrize(
    "choices",
    [
        {"shift": True, "aggregate": "attention"},
        {"aggregate": "conv3d", "members": 2},
        {"aggregate": "transformer", "planes": 3, "neighbours": 1},
        {"aggregate": "lstm"},
    ],
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


def test_refuses_what_is_not_there() -> None:
    for choices in (
        {"backbone": "vgg"},
        {"aggregate": "sum"},
        {"chunk": 0},
        {"n_channels": 0},
        {"neighbours": -1},
        {"planes": 2},
        {"backbone": "vgg11", "shift": True},
    ):
        with pytest.raises(ConfigError), torch.device("meta"):
            _network(**choices)

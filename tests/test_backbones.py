"""Each 2D network of the shelf, beside torchvision's own."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model, get_model_weights

from volumetric.errors import ConfigError, UnreadableFileError, UnsupportedError
from volumetric.models import slice_network
from volumetric.models.backbones import BACKBONES, build_trunk, input_statistics
from volumetric.network_names import SliceBackbone

_WEIGHTS = Path(__file__).parents[2] / "shared/data/weights/mobilenet_v2_features.pth"


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _theirs(name: str) -> nn.Module:
    """Torchvision's network as its weights make it, auxiliary classifiers and all: no numbers."""
    choices = {"init_weights": False, "transform_input": True} if BACKBONES[name].dropped else {}
    with torch.device("meta"):
        return get_model(name, weights=None, **choices).eval()


def _random_state(network: nn.Module, head: str) -> dict[str, torch.Tensor]:
    """Numbers of a size that leaves answers finite; a head's are all one, and take no room."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in network.state_dict().items():
        if key.startswith(f"{head}.") or value.ndim == 0:
            state[key] = torch.ones((), dtype=value.dtype).expand(value.shape)
        elif key.endswith("running_var") or "norm" in key.rsplit(".", 2)[-2]:
            state[key] = torch.rand(value.shape, generator=generator) + 0.5
        else:
            fan_in = math.prod(value.shape[1:]) if value.ndim > 1 else 100
            numbers = torch.randn(value.shape, generator=generator)
            state[key] = numbers * math.sqrt(2 / fan_in)
    return state


def _old_name(key: str) -> str:
    """As DenseNet's layers are called in the file that torchvision has of it."""
    if "denselayer" not in key:
        return key
    for kind in ("norm", "conv"):
        key = key.replace(f".{kind}1.", f".{kind}.1.").replace(f".{kind}2.", f".{kind}.2.")
    return key


def _before_head(network: nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    """What torchvision's network gives to the classifier that is taken off."""
    if name.startswith(("alexnet", "vgg")):
        return network.features(images).mean((2, 3))
    seen = []
    head = network.get_submodule(BACKBONES[name].head)
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(images)
    return seen[0].flatten(1)


@pytest.mark.parametrize("name", BACKBONES)
def test_weights_of_torchvisions_layout(name: str, tmp_path: Path) -> None:
    """The trunk then finds to the bit what torchvision's own does, auxiliary weights or not."""
    theirs = _theirs(name)
    state = _random_state(theirs, BACKBONES[name].head)
    theirs.load_state_dict(state, assign=True)
    path = tmp_path / f"{name}.pth"
    torch.save({_old_name(key): value for key, value in state.items()}, path)
    trunk = build_trunk(name, n_channels=3, weights=path).eval()
    side = max(64, BACKBONES[name].smallest)
    images = torch.randn(1, 3, side, side + 9)
    with torch.inference_mode():
        found = trunk(images)
        expected = _before_head(theirs, name, images)
    assert found.isfinite().all()
    assert found.std() > 0
    if name.startswith(("alexnet", "vgg")):  # two ways to take a mean
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet", "convnext_tiny", "vgg11"])
@pytest.mark.parametrize("change", ["stray", "missing", "stray auxiliary"])
def test_nothing_but_auxiliary_weights_is_left_over(name: str, change: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        trunk = build_trunk(name, n_channels=3)
    own = {key.removeprefix("network."): value for key, value in trunk.state_dict().items()}
    state = {k: torch.ones((), dtype=v.dtype).expand(v.shape) for k, v in own.items()}
    if change == "missing":
        gone = "classifier.0.weight" if name == "convnext_tiny" else next(iter(state))
        del state[gone]
    else:
        state["aux3.weight" if change == "stray auxiliary" else "fc2.weight"] = torch.ones(2)
    path = tmp_path / "w.pth"
    torch.save(state, path)
    with (
        pytest.raises(UnsupportedError, match="1 missing" if change == "missing" else "1 unknown"),
        torch.device("meta"),
    ):
        build_trunk(name, n_channels=3, weights=path)


def test_weights_that_are_a_program_are_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "trace"
    for save in (
        lambda program: path.write_bytes(pickle.dumps(program)),
        lambda program: torch.save({"features.0.weight": program}, path),
        lambda program: torch.save(
            {"features.0.weight": program}, path, _use_new_zipfile_serialization=False
        ),
    ):
        save(_Touch(trace))
        with pytest.raises(UnreadableFileError, match="cannot be read"):
            build_trunk("mobilenet_v2", n_channels=3, weights=path)
        assert not trace.exists()
    _Touch(trace).__reduce__()[0](trace)
    assert trace.exists()  # it would have been, had the program run


class _Touch:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", BACKBONES)
def test_counts_are_the_published_ones(name: str) -> None:
    """Torchvision's count, less its own classifiers, plus ours; a shift costs nothing."""
    known = BACKBONES[name]
    theirs = _theirs(name)
    auxiliary = sum(count(theirs.get_submodule(layer)) for layer in known.dropped)
    published = get_model_weights(name).DEFAULT.meta["num_params"]
    # GoogLeNet's is published without its auxiliary classifiers, Inception's with them.
    assert count(theirs) - (auxiliary if name == "googlenet" else 0) == published
    with torch.device("meta"):
        ours = slice_network(name, n_classes=4, shift=known.branches is not None)
    head = count(theirs.get_submodule(known.head))
    assert count(ours) == count(theirs) - auxiliary - head + 4 * (known.n_features + 1)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_smallest_side_is_torchvisions(name: str) -> None:
    smallest = BACKBONES[name].smallest
    assert get_model_weights(name).DEFAULT.meta["min_size"] == (smallest, smallest)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "inception_v3", "googlenet", "densenet121"])
def test_small_slices_are_enlarged_to_it(name: str) -> None:
    # In double precision: a network this deep of random weights makes much of a last bit.
    trunk = wake_norms(build_trunk(name, n_channels=1)).double()
    smallest = BACKBONES[name].smallest
    image = torch.randn(1, 1, 7, smallest + 2, dtype=torch.float64)
    larger = F.interpolate(image, (smallest, smallest + 2), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        torch.testing.assert_close(trunk(image), trunk(larger))


def wake_norms(trunk: nn.Module) -> nn.Module:
    """The same, with means and variances that differ between channels, as after training."""
    generator = torch.Generator().manual_seed(1)
    for module in trunk.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return trunk


def test_backbones_are_those_that_are_named() -> None:
    assert list(BACKBONES) == list(get_args(SliceBackbone))


def test_statistics_of_input() -> None:
    for kind, weights in (("imagenet", "resnet18"), ("kinetics", "r3d_18")):
        theirs = get_model_weights(weights).DEFAULT.transforms()
        assert input_statistics(kind) == (tuple(theirs.mean), tuple(theirs.std))
    mean, std = input_statistics("imagenet", 1)
    assert (round(mean[0], 3), round(std[0], 3)) == (0.449, 0.226)
    assert input_statistics("imagenet", 4)[0] == (0.485, 0.456, 0.406, 0.485)
    for name in BACKBONES:  # none wants other ones
        theirs = get_model_weights(name).DEFAULT.transforms()
        assert input_statistics("imagenet") == (tuple(theirs.mean), tuple(theirs.std))


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_inception_learnt_on_values_from_minus_one_to_one(name: str) -> None:
    """So grey from 0 to 1, normalised as ImageNet, enters its first layer."""
    for n_channels, copies in ((3, 1), (1, 1), (1, 3), (3, 3)):
        trunk = build_trunk(name, n_channels=n_channels, copies=copies).eval()
        seen: list[torch.Tensor] = []
        trunk.network.register_forward_pre_hook(lambda _, inputs, s=seen: s.append(inputs[0]))
        values = torch.rand(1, copies, n_channels, 80, 80)
        mean, std = (
            torch.tensor(n).view(-1, 1, 1) for n in input_statistics("imagenet", n_channels)
        )
        with torch.inference_mode():
            trunk(((values - mean) / std).flatten(1, 2))
        torch.testing.assert_close(seen[0], 2 * values.flatten(1, 2) - 1, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_odd_sizes(name: str) -> None:
    torch.manual_seed(0)
    network = slice_network(name, n_channels=1, n_classes=4, aggregate="attention").eval()
    with torch.inference_mode():
        for shape in ((2, 1, 3, 65, 47), (1, 1, 1, 20, 9)):
            logits = network(torch.randn(shape))
            assert logits.shape == (shape[0], 4)
            assert logits.isfinite().all()


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_are_a_sixteenth_of_the_slice(name: str) -> None:
    trunk = build_trunk(name, n_channels=3, maps="sixteenth").eval()
    with torch.inference_mode():
        maps = trunk(torch.randn(1, 3, 96, 160))
    # These two lose a border to layers that pad too little.
    sides = {"alexnet": (5, 9), "inception_v3": (4, 8)}.get(name, (6, 10))
    assert maps.shape == (1, BACKBONES[name].n_maps, *sides)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_mean_of_the_last_maps_is_the_features(name: str) -> None:
    trunks = []
    for kind in ("pooled", "last"):
        torch.manual_seed(0)
        trunks.append(wake_norms(build_trunk(name, n_channels=3, maps=kind)))
    images = torch.randn(1, 3, 80, 96)
    with torch.inference_mode():
        features, found = trunks[0](images), trunks[1](images).mean((2, 3))
        if name == "convnext_tiny":  # its features are normalised besides
            found = trunks[0].network.classifier(found[..., None, None])
    assert features.shape == (1, BACKBONES[name].n_features)
    assert features.std() > 0
    torch.testing.assert_close(found, features, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_overfits_two_cases(name: str) -> None:
    torch.manual_seed(1)
    images = torch.randn(2, 1, 2, 32, 32)
    network = slice_network(name, n_channels=1, n_classes=2, aggregate="attention").train()
    for module in network.modules():
        if isinstance(getattr(module, "p", None), float):
            module.p = 0.0  # with two cases, what is dropped is most of the loss
    plain = name in ("alexnet", "vgg11", "vgg16")  # nothing keeps their numbers in bounds
    optimizer = torch.optim.Adam(network.parameters(), 1e-4 if plain else 1e-3)
    for _ in range(20):
        loss = F.cross_entropy(network(images), torch.tensor([0, 1]))
        if loss < 0.1:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss is still {loss.item():.2f}")


# One of each family: all were tried, and the large ones take their time.
_TRACED = ["alexnet", "vgg11_bn", "resnet18", "googlenet", "efficientnet_b0", "mobilenet_v3_small"]


@pytest.mark.parametrize("name", [*_TRACED, "inception_v3", "densenet121", "convnext_tiny"])
def test_exports(name: str) -> None:
    """With any number of images; that of slices and their size are fixed."""
    torch.manual_seed(0)
    network = slice_network(name, n_channels=1, n_classes=4, aggregate="attention", chunk=None)
    wake_norms(network)
    images, other = torch.randn(2, 1, 2, 32, 40), torch.randn(3, 1, 2, 32, 40)
    batch = torch.export.Dim("batch", min=1, max=16)
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    with torch.inference_mode():
        expected = network(other)
        torch.testing.assert_close(exported.module()(other), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "mobilenet_v3_small"])
def test_compiles_without_a_break(name: str) -> None:
    torch.manual_seed(0)
    network = slice_network(name, n_channels=1, n_classes=4, aggregate="attention", chunk=2)
    wake_norms(network)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    images = torch.randn(2, 1, 3, 32, 40)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), network(images), atol=1e-4, rtol=1e-3)


def test_imagenet_weights_without_a_head() -> None:
    if not _WEIGHTS.exists():
        pytest.skip("the weights are not beside this checkout")
    state = torch.load(_WEIGHTS, weights_only=True)
    colour, grey = (
        build_trunk("mobilenet_v2", n_channels=n, weights=_WEIGHTS).eval() for n in (3, 1)
    )
    loaded = colour.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    image = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        expected = colour(image.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey(image), expected, atol=1e-3, rtol=1e-3)
    with pytest.raises(UnsupportedError, match="not the weights of resnet18"):
        build_trunk("resnet18", n_channels=3, weights=_WEIGHTS)


def test_refuses_what_is_not_there() -> None:
    with torch.device("meta"):
        for name in ("vgg", "vgg19", "r3d_18"):
            with pytest.raises(ConfigError, match="convnext_tiny"):
                build_trunk(name, n_channels=3)
        for name in (name for name, known in BACKBONES.items() if known.branches is None):
            with pytest.raises(ConfigError, match="no residual branches"):
                build_trunk(name, n_channels=3, shift=True)

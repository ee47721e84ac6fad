from __future__ import annotations

import os
import warnings
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model, get_model_weights

from tests.overfitting import count, drop_nothing, opposite_motions, overfit
from volumetric.errors import ConfigError, GeometryError, UnreadableFileError, UnsupportedError
from volumetric.models import c3d, convert_resnet, volume_network
from volumetric.models.volumes import _IdentityShortcut
from volumetric.network_names import MedicalNetwork, VideoNetwork, VolumeNetwork

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.networks import nets

NAMES = [name for name in get_args(VolumeNetwork) if name not in get_args(VideoNetwork)]
MEDICAL = get_args(MedicalNetwork)


def theirs(name: str, *, shortcut: str = "B", **options) -> nn.Module:
    """MONAI's own ResNet in the layout of MedicalNet."""
    build = getattr(nets, name.replace("3d_", ""))
    given = {"n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False} | options
    return build(spatial_dims=3, shortcut_type=shortcut, **given)


def wake(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Count in every norm what these images leave there, and shake what is learnt of each."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    with torch.inference_mode():
        network.train()(images)
    return network.eval()


def test_every_name_of_the_shelf_is_built_at_every_size() -> None:
    """Names, shapes and classes; the numbers are looked at below."""
    for name in NAMES:
        with torch.device("meta"):
            network = volume_network(name, n_channels=2, n_classes=5).eval()
            for shape in ((1, 1, 1), (1, 33, 31), (9, 33, 31), (2, 3, 2), (40, 5, 1)):
                assert network(torch.empty(3, 2, *shape)).shape == (3, 5), (name, shape)


@pytest.mark.parametrize(
    "name", ["c3d", "resnet3d_18", "densenet3d_121", "se_resnet3d_50", "resnet18_acs"]
)
def test_answers_are_finite_and_differ(name: str) -> None:
    torch.manual_seed(0)
    network = volume_network(name, n_channels=2, n_classes=3)
    for shape in ((9, 33, 31), (1, 1, 1)):
        logits = network(torch.randn(2, 2, *shape))
        assert torch.isfinite(logits).all()
        assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", get_args(VideoNetwork))
def test_torchvisions_are_on_the_same_shelf(name: str) -> None:
    with torch.device("meta"):
        network = volume_network(name, n_channels=3, n_classes=400)
    assert count(network) == get_model_weights(name).DEFAULT.meta["num_params"]


def inflated(flat: nn.Module) -> int:
    """Parameters once each convolution is as deep as it is wide."""
    return sum(p.numel() * (p.shape[-1] if p.ndim == 4 else 1) for p in flat.parameters())


def test_counts_are_those_of_published_2d_networks_inflated() -> None:
    """DenseNet-121 7 978 856, ResNet-50 25 557 032 (torchvision), SE-ResNet-50 28 088 024."""
    with torch.device("meta"):
        flat_se = nets.SEResNet50(spatial_dims=2, in_channels=3, num_classes=1000)
        flats = {"densenet3d_121": get_model("densenet121"), "se_resnet3d_50": flat_se}
        flats |= {"resnet3d_50": get_model("resnet50")}
        assert [count(flat) for flat in flats.values()] == [7_978_856, 28_088_024, 25_557_032]
        for name, flat in flats.items():
            assert count(volume_network(name, n_channels=3, n_classes=1000)) == inflated(flat)


@pytest.mark.parametrize(
    ("name", "millions"), list(zip(MEDICAL, [14.36, 32.99, 63.31, 46.21], strict=True))
)
def test_counts_are_near_those_medicalnet_publishes(name: str, millions: float) -> None:
    """Without the classifier; Tencent's README gives two digits, of what it does not say."""
    with torch.device("meta"):
        network = volume_network(name, n_classes=2)
    assert (count(network) - count(network.fc)) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_c3d_is_the_papers_at_its_size() -> None:
    """Counted by hand; MMAction2 gives 78.4 M and 38.5 GMAC with the 101 classes of UCF101."""
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    convolutions = sum(27 * a * b + b for a, b in pairwise(widths))
    seeing_all = (512 * 16 + 1) * 4096 + (4096 + 1) * 4096
    with torch.device("meta"):
        for n_classes in (487, 101):
            network = c3d(3, n_classes)
            assert count(network) == convolutions + seeing_all + (4096 + 1) * n_classes
        counter = FlopCounterMode(display=False)
        clip = torch.empty(1, 3, 16, 112, 112)
        with counter, torch.no_grad():
            network(clip)
        assert network[: list(network._modules).index("grid")](clip).shape[2:] == (1, 4, 4)
    assert round(count(network) / 1e6, 1) == 78.4
    assert round(counter.get_total_flops() / 2e9, 1) == 38.5


def test_c3d_pools_a_clip_as_the_padded_pytorch_copies_do_save_in_place() -> None:
    """Where all sizes are even, pools that round up are the plain ones: torch's as an oracle."""
    network = c3d(1, 2, width=4, n_hidden=8).eval()
    clip = torch.randn(1, 1, 16, 64, 32)
    x = clip
    for name, layer in network.named_children():
        if name == "grid":
            break
        x = nn.MaxPool3d(layer.kernel_size)(x) if name.startswith("pool") else layer(x)
    torch.testing.assert_close(network[: list(network._modules).index("grid")](clip), x)


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet3d_10", 16), ("resnet3d_18", 16), ("densenet3d_121", 64), ("se_resnet3d_50", 64)],
)
def test_networks_tell_motions_apart(name: str, size: int) -> None:
    torch.manual_seed(0)
    network = volume_network(name, n_channels=1, n_classes=2)
    clips = opposite_motions(n_channels=1, size=size, n_frames=8)
    assert overfit(network, clips, steps=10, rate=1e-3)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_c3d_tells_motions_apart() -> None:
    torch.manual_seed(0)
    network = c3d(1, 2, width=8, n_hidden=32)
    drop_nothing(network)
    assert overfit(network, opposite_motions(n_channels=1), steps=40, rate=1e-3)


def test_where_monai_answers_its_networks_answer_the_same() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 33, 34, 40)
    given = {"spatial_dims": 3, "in_channels": 1}
    for name, original in (
        ("densenet3d_121", nets.DenseNet121(**given, out_channels=3)),
        ("se_resnet3d_50", nets.SEResNet50(**given, num_classes=3)),
        ("resnet3d_18", theirs("resnet3d_18", shortcut="A", num_classes=3)),
    ):
        wake(original, images)
        network = volume_network(name, n_classes=3).eval()
        network.load_state_dict(original.state_dict())
        with torch.inference_mode():
            expected = original(images)
            assert expected.std() > 0.01
            torch.testing.assert_close(network(images), expected, atol=1e-4, rtol=1e-4)


def test_identity_shortcuts_pass_gradients_on() -> None:
    x = torch.randn(1, 2, 5, 4, 3, requires_grad=True)
    result = _IdentityShortcut(5, 2)(x)
    assert result.shape == (1, 5, 3, 2, 2)
    assert torch.equal(result[:, :2], x[:, :, ::2, ::2, ::2])
    assert result[:, 2:].abs().sum() == 0
    result.sum().backward()
    assert x.grad.sum() == result[:, :2].numel()


def test_one_value_a_channel_is_nothing_to_learn_from() -> None:
    network = volume_network("resnet18_acs", n_classes=2)
    with pytest.raises(GeometryError, match="two images or more"):
        network(torch.randn(1, 1, 9, 31, 32))
    assert torch.isfinite(network(torch.randn(1, 1, 9, 33, 32))).all()


def save_as_medicalnet(path: Path, network: nn.Module, **beside) -> Path:
    """As Tencent does: under DataParallel's names, without a head, grey, counters included."""
    state = {f"module.{k}": v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    torch.save({"state_dict": state, **beside}, path)
    return path


@pytest.mark.parametrize("name", ["resnet3d_10", "resnet3d_18", "resnet3d_50"])
def test_weights_in_medicalnets_format(tmp_path: Path, name: str) -> None:
    """MONAI's own network of random weights, through a file, answers as ours before the head."""
    torch.manual_seed(0)
    shortcut = "A" if name == "resnet3d_18" else "B"
    images = torch.randn(2, 1, 17, 32, 33)
    original = wake(theirs(name, shortcut=shortcut, feed_forward=False), images)
    path = save_as_medicalnet(tmp_path / f"{name}.pth", original, epoch=3)
    network = volume_network(name, n_classes=4, weights=path).eval()
    head = network.fc
    network.fc = nn.Identity()
    with torch.inference_mode():
        expected = original(images)
        torch.testing.assert_close(network(images), expected, atol=1e-4, rtol=1e-4)
    assert head.out_features == 4
    assert expected.std() > 0.01


def test_grey_weights_meet_several_channels(tmp_path: Path) -> None:
    """Copies of an image in every channel are answered as the image."""
    torch.manual_seed(0)
    images = torch.randn(2, 1, 17, 32, 33)
    original = wake(theirs("resnet3d_10", num_classes=3), images)
    path = tmp_path / "w.pth"
    torch.save({"state_dict": original.state_dict()}, path)
    network = volume_network("resnet3d_10", n_channels=4, n_classes=3, weights=path).eval()
    with torch.inference_mode():
        found = network(images.expand(-1, 4, -1, -1, -1))
        torch.testing.assert_close(found, original(images), atol=1e-4, rtol=1e-4)


def test_a_segmenting_head_of_medicalnet_is_left(tmp_path: Path) -> None:
    """Its training script saves one, beside an optimizer."""
    original = theirs("resnet3d_10", feed_forward=False)
    original.conv_seg = nn.Conv3d(512, 2, 1)
    path = save_as_medicalnet(tmp_path / "w.pth", original, optimizer={"param_groups": [{}]})
    network = volume_network("resnet3d_10", n_classes=4, weights=path)
    assert torch.equal(network.layer4[0].conv2.weight, original.layer4[0].conv2.weight)


def test_files_without_counters_of_norms_load(tmp_path: Path) -> None:
    """So old that PyTorch did not count batches."""
    original = theirs("resnet3d_10", feed_forward=False)
    state = {k: v for k, v in original.state_dict().items() if "num_batches" not in k}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    network = volume_network("resnet3d_10", n_classes=4, weights=tmp_path / "w.pth")
    assert torch.equal(network.conv1.weight, original.conv1.weight)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: theirs("resnet3d_10"), "missing: layer1.1.bn1.bias"),
        (lambda: theirs("resnet3d_18"), "unknown: layer2.0.downsample.0.weight"),
        (
            lambda: theirs("resnet3d_18", shortcut="A", n_input_channels=3),
            r"conv1.weight \(64, 3, 7, 7, 7\) for \(64, 1, 7, 7, 7\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path: Path, other, named: str) -> None:
    path = save_as_medicalnet(tmp_path / "w.pth", other())
    with pytest.raises(UnsupportedError, match=named) as caught:
        volume_network("resnet3d_18", n_classes=2, weights=path)
    assert (caught.value.code, caught.value.path) == ("weights-mismatch", str(path))


class _Malicious:
    """What a pickle would do when it is opened."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _write_malicious(path: Path) -> None:
    state = {"module.conv1.weight": torch.ones(1), "trap": _Malicious(path.with_name("sprung"))}
    torch.save({"state_dict": state}, path)


def _write_cut(path: Path) -> None:
    save_as_medicalnet(path, theirs("resnet3d_10"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize(
    "write",
    [
        _write_malicious,
        _write_cut,
        lambda path: torch.save({"state_dict": [1, 2]}, path),
        lambda path: torch.save({"state_dict": {"module.conv1.weight": "none"}}, path),
        lambda path: torch.save({"state_dict": {1: torch.ones(1)}}, path),
        lambda path: torch.save([torch.ones(1)], path),
    ],
)
def test_broken_and_malicious_files_are_refused(tmp_path: Path, write) -> None:
    path = tmp_path / "resnet_10.pth"
    write(path)
    with pytest.raises(UnreadableFileError) as caught:
        volume_network("resnet3d_10", n_classes=2, weights=path)
    assert caught.value.code == "unreadable-weights"
    assert not (tmp_path / "sprung").exists()


def test_imagenet_weights_reach_converted_networks(tmp_path: Path) -> None:
    """From a file in torchvision's format: the same as converting the 2D network oneself."""
    torch.manual_seed(0)
    flat = get_model("resnet18", weights=None, num_classes=3)
    path = tmp_path / "resnet18.pth"
    torch.save(flat.state_dict(), path)
    volumes = torch.randn(2, 3, 5, 32, 32)
    for name, how in (("resnet18_i3d", "inflate"), ("resnet18_acs", "acs")):
        network = volume_network(name, n_channels=3, n_classes=3, weights=path).eval()
        expected = convert_resnet(flat, how=how).eval()
        with torch.inference_mode():
            torch.testing.assert_close(network(volumes), expected(volumes))
    assert volume_network("resnet18_i3d", n_channels=1, n_classes=2).conv1.in_channels == 1


def test_what_is_not_on_the_shelf() -> None:
    for given in ({"name": "resnet3d_99"}, {"name": "c3d", "n_channels": 0}):
        with pytest.raises(ConfigError, match="densenet3d_121"):
            volume_network(**given, n_classes=2)
    for name, weights in (("resnet3d_18", "imagenet"), ("c3d", "kinetics")):
        with pytest.raises(ConfigError) as caught:
            volume_network(name, n_classes=2, weights=weights)
        assert caught.value.code == "unknown-weights"


@pytest.mark.parametrize("name", ["c3d", "resnet3d_18", "resnet18_i3d", "resnet18_acs"])
def test_networks_export_and_compile(name: str) -> None:
    torch.manual_seed(0)
    network = volume_network(name, n_classes=3).eval()
    images, others = torch.randn(2, 1, 5, 17, 16), torch.randn(3, 1, 5, 17, 16)
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        exported = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
        expected = network(others)
        torch.testing.assert_close(exported.module()(others), expected, atol=1e-4, rtol=1e-4)
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(others), expected)

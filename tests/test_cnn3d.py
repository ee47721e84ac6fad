from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from tests.overfitting import count, drop_nothing, opposite_motions, overfit
from volumetric.errors import (
    ConfigError,
    DownloadError,
    GeometryError,
    UnreadableFileError,
    UnsupportedError,
)
from volumetric.models import plain_cnn3d, small_cnn3d, video_network
from volumetric.models import weights as weights_module
from volumetric.models.weights import adapt_first_layer, load_backbone

HEADS = {  # features that enter the classifier
    "r3d_18": 512,
    "mc3_18": 512,
    "r2plus1d_18": 512,
    "s3d": 1024,
    "mvit_v2_s": 768,
    "swin3d_t": 768,
}


@pytest.mark.parametrize("shape", [(2, 1, 5, 33, 47), (1, 6, 16, 40, 31), (2, 3, 1, 1, 1)])
def test_small_network_takes_odd_sizes(shape: tuple[int, ...]) -> None:
    network = small_cnn3d(shape[1], 7, width=8).eval()
    assert network(torch.randn(shape)).shape == (shape[0], 7)


def test_small_network_counted_by_hand() -> None:
    """A block: over the frame, over time, the shortcut, each with a norm of two a channel."""

    def block(channels: int, width: int) -> int:
        return 9 * channels * width + 3 * width * width + channels * width + 6 * width

    w = 24
    stem = 3 * 3 * 5 * 5 * w + 2 * w
    blocks = block(w, w) + block(w, 2 * w) + block(2 * w, 4 * w) + block(4 * w, 8 * w)
    found = count(small_cnn3d(3, 9))
    assert found == stem + blocks + 8 * w * 9 + 9
    assert 300_000 < found < 1_000_000


def test_small_network_tells_motions_apart() -> None:
    torch.manual_seed(0)
    network = small_cnn3d(1, 2, width=8)
    assert overfit(network, opposite_motions(n_channels=1), steps=25, rate=1e-2)


def test_every_parameter_of_the_small_network_learns() -> None:
    network = small_cnn3d(1, 2, width=8)
    F.cross_entropy(network(torch.randn(2, 1, 8, 40, 40)), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("shape", [(2, 1, 24, 30, 32), (1, 2, 5, 33, 47), (2, 3, 1, 1, 1)])
def test_plain_network_takes_odd_sizes(shape: tuple[int, ...]) -> None:
    network = plain_cnn3d(shape[1], 7, strides=[(1, 2, 2), (2, 2, 2)], width=8).eval()
    assert network(torch.randn(shape)).shape == (shape[0], 7)


def test_plain_network_counted_by_hand() -> None:
    found = count(plain_cnn3d(1, 2, strides=[(2, 2, 2)] * 4, width=32, widest=128))
    pairs = [(1, 32), (32, 64), (64, 128), (128, 128)]
    assert found == sum(27 * before * after + 2 * after for before, after in pairs) + 2 * 128 + 2


def test_plain_network_tells_volumes_apart() -> None:
    torch.manual_seed(0)
    network = plain_cnn3d(1, 2, strides=[(2, 2, 2)] * 3, width=8)
    drop_nothing(network)
    assert overfit(network, opposite_motions(n_channels=1), steps=25, rate=1e-2)


@pytest.mark.parametrize("name", HEADS)
def test_counts_are_the_published_ones(name: str) -> None:
    from torchvision.models import get_model_weights

    with torch.device("meta"):
        published = video_network(name, n_channels=3, n_classes=400)
        ours = video_network(name, n_channels=3, n_classes=7)
    assert count(published) == get_model_weights(name).DEFAULT.meta["num_params"]
    assert count(published) - count(ours) == (400 - 7) * (HEADS[name] + 1)


SHAPES = dict.fromkeys(HEADS, (5, 33, 37)) | {"mvit_v2_s": (4, 112, 36)}


@pytest.mark.parametrize("name", HEADS)
def test_video_networks_take_odd_sizes_and_channels(name: str) -> None:
    shape = SHAPES[name]
    network = video_network(name, n_channels=1, n_classes=4, shape=shape).eval()
    with torch.inference_mode():
        logits = network(torch.randn(1, 1, *shape))
    assert logits.shape == (1, 4)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["mc3_18", "s3d", "swin3d_t"])
def test_video_networks_tell_motions_apart(name: str) -> None:
    torch.manual_seed(0)
    network = video_network(name, n_channels=1, n_classes=2)
    drop_nothing(network)
    rate = 1e-4 if name == "swin3d_t" else 1e-3
    assert overfit(network, opposite_motions(n_channels=1), steps=12, rate=rate)


@pytest.mark.parametrize("name", ["r3d_18", "r2plus1d_18", "s3d", "swin3d_t"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 5), (2, 3, 2)])
def test_video_networks_take_what_is_hardly_a_clip(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = video_network(name, n_channels=3, n_classes=4).eval()
        assert network(torch.empty(2, 3, *shape)).shape == (2, 4)


def test_one_value_a_channel_is_nothing_to_learn_from() -> None:
    network = video_network("mc3_18", n_channels=3, n_classes=4)
    with pytest.raises(GeometryError, match="two images") as caught:
        network(torch.randn(1, 3, 1, 16, 16))
    assert caught.value.code == "one-value"
    assert network(torch.randn(2, 3, 1, 16, 16)).shape == (2, 4)
    assert network.eval()(torch.randn(1, 3, 1, 16, 16)).shape == (1, 4)


def test_mvit_refuses_what_it_is_not_built_for() -> None:
    with torch.device("meta"):
        network = video_network("mvit_v2_s", n_channels=3, n_classes=4)
    with pytest.raises(GeometryError, match="built for"):
        network(torch.empty(1, 3, 16, 112, 112, device="meta"))


def test_mvit_is_torchvisions_own() -> None:
    """At torchvision's size every layer, with its widths, kernels and strides, is the same."""
    from torchvision.models.video import mvit_v2_s

    with torch.device("meta"):
        theirs = mvit_v2_s(num_classes=5)
        ours = video_network("mvit_v2_s", n_classes=5)
    assert repr(ours) == repr(theirs)
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for own, other in zip(ours.blocks, theirs.blocks, strict=True):
        for name in ("residual_pool", "residual_with_cls_embed", "num_heads", "scaler"):
            assert getattr(own.attn, name) == getattr(other.attn, name)
        assert own.proj_after_attn == other.proj_after_attn


@pytest.mark.parametrize("shape", [(15, 224, 224), (16, 112, 111), (16, 224, 28), (0, 32, 32)])
def test_mvit_cannot_be_built_for_every_shape(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="multiples of 4"):
        video_network("mvit_v2_s", n_classes=5, shape=shape)


def test_s3d_answers_as_torchvision_does_where_that_answers() -> None:
    from torchvision.models.video import s3d

    torch.manual_seed(0)
    ours = video_network("s3d", n_channels=3, n_classes=5).eval()
    theirs = s3d(num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    clip = torch.randn(1, 3, 16, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(clip), theirs(clip))


@pytest.mark.parametrize(
    "build", [small_cnn3d, partial(plain_cnn3d, strides=[(2, 2, 2)] * 3)], ids=["small", "plain"]
)
def test_network_exports(build: Callable[..., nn.Module]) -> None:
    network = build(3, 4, width=8).eval()
    clip = torch.randn(2, 3, 8, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (clip,), dynamic_shapes=({0: batch},))
    other = torch.randn(3, 3, 8, 32, 32)
    torch.testing.assert_close(exported.module()(other), network(other), atol=1e-5, rtol=1e-4)


def test_a_grey_clip_is_answered_as_its_colour_copy() -> None:
    torch.manual_seed(0)
    colour = video_network("mc3_18", n_channels=3, n_classes=4).eval()
    grey = video_network("mc3_18", n_channels=3, n_classes=4).eval()
    grey.load_state_dict(colour.state_dict())
    adapt_first_layer(grey, 1)
    clip = torch.randn(1, 1, 4, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            grey(clip), colour(clip.expand(-1, 3, -1, -1, -1)), atol=1e-4, rtol=1e-4
        )


def test_more_channels_repeat_the_kernels() -> None:
    network = nn.Sequential(nn.Conv3d(3, 2, 1, bias=False))
    kernels = network[0].weight.detach().clone()
    adapt_first_layer(network, 6)
    clip = torch.randn(1, 3, 2, 4, 4)
    torch.testing.assert_close(
        network(torch.cat([clip, clip], 1)), F.conv3d(clip, kernels), atol=1e-6, rtol=1e-5
    )
    with pytest.raises(ConfigError, match="cannot be made"):
        adapt_first_layer(network, 3)


def test_unknown_network() -> None:
    with pytest.raises(ConfigError, match="mvit_v2_s"):
        video_network("resnet", n_classes=2)


class _Tiny(nn.Module):
    """A trunk and a head, in torchvision's manner."""

    def __init__(self, n_classes: int):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.classifier = nn.Linear(4, n_classes)


def _saved(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_a_file(tmp_path: Path, suffix: str) -> None:
    """With a head of the same shape, of another, and with none."""
    state = {k: torch.rand_like(v.float()) for k, v in _Tiny(5).state_dict().items()}
    path = _saved(tmp_path / f"w{suffix}", state)
    same, other, bare = _Tiny(5), _Tiny(2), _Tiny(2)
    assert load_backbone(same, path, name="tiny")
    assert torch.equal(same.classifier.weight, state["classifier.weight"])
    head = other.classifier.weight.detach().clone()
    assert not load_backbone(other, path, name="tiny")
    assert torch.equal(other.features[0].weight, state["features.0.weight"])
    assert torch.equal(other.classifier.weight, head)
    trunk = {k: v for k, v in state.items() if k.startswith("features")}
    assert not load_backbone(bare, _saved(tmp_path / f"t{suffix}", trunk), name="tiny")
    assert torch.equal(bare.features[1].running_var, state["features.1.running_var"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("features.0.weight"), "1 missing: features.0.weight"),
        (lambda s: s.update(stray=torch.ones(1)), "1 unknown: stray"),
        (
            lambda s: s.update({"features.1.bias": torch.ones(7)}),
            r"1 of another shape: features.1.bias \(7,\) for \(4,\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path: Path, change, named) -> None:
    network = _Tiny(5)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = {k: v + 1 for k, v in before.items()}
    change(state)
    with pytest.raises(UnsupportedError, match=named):
        load_backbone(network, _saved(tmp_path / "w.pth", state), name="tiny")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def _write_no_tensors(path: Path) -> None:
    torch.save({"features": [1, 2]}, path)


def _write_code(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)  # a pickled object would run code when read


def _write_nan(path: Path) -> None:
    torch.save({k: v * float("nan") for k, v in _Tiny(5).state_dict().items()}, path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not weights at all"),
        _write_no_tensors,
        _write_code,
        _write_nan,
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_files_are_refused(tmp_path: Path, write, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    write(path)
    with pytest.raises(UnreadableFileError) as caught:
        load_backbone(_Tiny(5), path, name="tiny")
    assert caught.value.code == "unreadable-weights"


_STRANGE = {
    "expanded": lambda: torch.zeros(1).expand(10**15),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "nowhere": lambda: torch.ones(3, device="meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", _STRANGE.values(), ids=_STRANGE)
def test_tensors_that_are_no_plain_numbers_are_refused(make, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"conv.weight": make()}, path)
    with pytest.raises((UnreadableFileError, UnsupportedError), match="weights"):
        load_backbone(_Tiny(5), path, name="tiny")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_weights_are_refused_or_read(suffix: str, tmp_path: Path) -> None:
    """Whatever torch's reader raises at a changed byte, what comes out is a typed error."""
    state = {"stem.0.weight": torch.ones(4, 3), "fc.bias": torch.zeros(2)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for at in rng.integers(0, len(damaged), 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with pytest.raises((UnreadableFileError, UnsupportedError)):
            load_backbone(_Tiny(5), path, name="tiny")


def test_no_such_weights() -> None:
    for name, kind in (("mobilenet_v2", "kinetics"), ("tiny", "imagenet"), ("resnet18", "other")):
        with pytest.raises(ConfigError) as caught:
            load_backbone(_Tiny(5), kind, name=name)
        assert caught.value.code == "unknown-weights"


def test_offline_is_said_and_nothing_is_left_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("urllib.request._opener", None)
    with pytest.raises(DownloadError, match=r"r3d_18-b3b3357e\.pth"):
        video_network("r3d_18", n_classes=2, weights="kinetics")


def test_cached_weights_are_held_against_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub/checkpoints"
    cache.mkdir(parents=True)
    (cache / "resnet18-f37072fd.pth").write_bytes(b"other bytes")
    with pytest.raises(DownloadError) as caught:
        load_backbone(nn.Linear(1, 1), "imagenet", name="resnet18")
    assert caught.value.code == "wrong-hash"


def test_weights_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file's URL, the SHA-256 of which begins as its name says."""
    import hashlib

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request._opener", None)
    content = b"weights"
    source = tmp_path / f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    source.write_bytes(content)
    path = weights_module._cached(source.as_uri())
    assert path.read_bytes() == content
    source.unlink()
    assert weights_module._cached(source.as_uri()) == path

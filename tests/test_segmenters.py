"""The networks of MONAI, and every kind through plan, model folder and stages."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pipeline.config import RunConfig, parse_config
from pipeline.files import read_json
from pipeline.run import create_run
from pipeline.segmentation.config import ModelSection
from pipeline.segmentation.evaluate import evaluate
from pipeline.segmentation.keys import training_key
from pipeline.segmentation.postprocess import postprocess
from pipeline.segmentation.predict import predict
from pipeline.segmentation.prepare import prepare
from pipeline.segmentation.train import train
from volumetric.errors import ConfigError, OutputError, UnreadableFileError
from volumetric.losses import deep_supervision
from volumetric.model import load_model, load_spec, save_fold
from volumetric.models.segmenters import attention_unet, segresnet, swin_unetr, unetr
from volumetric.network_names import Segmenter
from volumetric.network_plan import NetworkWish, plan_network
from volumetric.networks import build_network
from volumetric.spec import ModelSpec

KINDS = get_args(Segmenter)
WIDTHS = {"swin_unetr": (12, 192), "unetr": (4, 64), "segresnet": (8, 16)}
_TRANSFORMERS = ("swin_unetr", "unetr")
_STRIDES = [(1, 1, 1), (1, 2, 2), (2, 2, 2)]


def _needs_einops(kind: str) -> None:
    if kind in _TRANSFORMERS and find_spec("einops") is None:
        pytest.skip("einops is not installed: make setup")


def _spec(kind: str, shape: tuple[int, int, int], **choices: Any) -> ModelSpec:
    """Of a small network, planned for a patch that is wanted as it is."""
    _needs_einops(kind)
    base, largest = WIDTHS.get(kind, (4, 8))
    plan = plan_network(NetworkWish(kind, base, largest, 3), shape, (1, 1, 1))
    values = {
        "kind": kind,
        "n_channels": 2,
        "classes": {1: "one", 2: "two"},
        "features": plan.features,
        "strides": plan.strides,
        "kernels": plan.kernels,
        "patch_size": plan.patch_size,
        "spacing_mm": (1.0, 1.0, 1.0),
        "intensity": {"kind": "zscore"},
        "backbone": "mobilenet_v3_small" if kind == "slice_unet" else None,
    }
    return ModelSpec(**{**values, **choices})


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_plan_gives_goes_in_and_out_of_a_folder(kind: str, tmp_path: Path) -> None:
    """The patch passes through the network, which the folder gives back with its answers."""
    spec = _spec(kind, (19, 33, 25))
    torch.manual_seed(0)
    network = build_network(spec).eval()
    images = torch.randn(1, 2, *spec.patch_size)
    save_fold(tmp_path, 0, network, spec=spec, facts={"key": "k"})
    found = load_model(tmp_path)
    assert found.spec.kind == kind
    assert found.spec.patch_size == spec.patch_size
    with torch.inference_mode():
        logits = network(images)
        assert logits.shape == (1, 3, *spec.patch_size)
        assert torch.equal(found.networks[0](images), logits)


def test_kinds_are_no_ensemble(tmp_path: Path) -> None:
    for fold, backbone in enumerate(["mobilenet_v3_small", "mobilenet_v2"]):
        spec = _spec("slice_unet", (4, 9, 9), backbone=backbone)
        save_fold(tmp_path, fold, build_network(spec), spec=spec, facts={"key": "k"})
    assert list(load_spec(tmp_path).folds) == ["1"]


@pytest.mark.parametrize("kind", ["attention_unet", "segresnet", "swin_unetr", "unetr"])
def test_overfits_two_cases(kind: str) -> None:
    shape = (32, 32, 32) if kind == "swin_unetr" else (16, 16, 16)
    spec = _spec(kind, shape)
    torch.manual_seed(0)
    network = build_network(spec).train()
    images = torch.randn(2, 2, *spec.patch_size)
    labels = (images[:, 0] > 0.5).long() + (images[:, 0] > 1.2).long()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(60):
        loss = deep_supervision(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network(images).argmax(1) == labels).float().mean() > 0.9


def _count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_counts_are_the_published_ones() -> None:
    """MONAI's own models: BraTS of SegResNet (4 images, 3 classes), by features of 16 and 32."""
    assert _count(segresnet(4, 3, features=[16, 32, 64, 128])) == 4_702_227
    assert _count(segresnet(4, 3, features=[32, 64, 128, 256])) == 18_798_627


@pytest.mark.slow
@pytest.mark.parametrize("kind", _TRANSFORMERS)
def test_counts_of_transformers_are_the_published_ones(kind: str) -> None:
    """BTCV, 13 organs: 62.19 M as its paper's authors list it, and 92.78 M.

    MONAI has since given UNETR twelve norms that nothing uses.
    """
    _needs_einops(kind)
    if kind == "swin_unetr":
        assert _count(swin_unetr(1, 14, features=[48])) == 62_187_296
    else:
        network = unetr(1, 14, features=[16, 768], patch_size=(96, 96, 96))
        assert _count(network) - 12 * 2 * 768 == 92_784_046


def test_attention_unet_counts_as_its_parts_do() -> None:
    """By hand, for two stages: convolutions with bias, batch norms of two values a channel."""
    network = attention_unet(1, 2, features=[4, 8], strides=[(1, 1, 1), (2, 2, 2)])

    def convolution(n_in: int, n_out: int, kernel: int = 27, norm: int = 1) -> int:
        return kernel * n_in * n_out + n_out + norm * 2 * n_out

    encoder = convolution(1, 4) + convolution(4, 4) + convolution(4, 8) + convolution(8, 8)
    gate = 2 * convolution(4, 2, 1) + convolution(2, 1, 1)
    activations = 1  # MONAI's merging convolution has a PReLU
    decoder = convolution(8, 4) + gate + convolution(8, 4, norm=0) + activations
    assert _count(network) == encoder + decoder + convolution(4, 2, 1, norm=0)


@pytest.mark.parametrize("kind", ["attention_unet", "segresnet", "swin_unetr", "unetr"])
def test_they_are_exported_and_compiled(kind: str) -> None:
    spec = _spec(kind, (16, 32, 16))
    network = build_network(spec).eval()
    images = torch.randn(1, 2, *spec.patch_size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = network(images)
        exported = torch.export.export(network, (images,)).module()
        torch.testing.assert_close(exported(images), expected, atol=1e-4, rtol=1e-4)
        compiled = torch.compile(network, backend="eager", dynamic=False)
        torch.testing.assert_close(compiled(images), expected, atol=1e-4, rtol=1e-4)


def test_anisotropic_strides_reach_the_attention_unet() -> None:
    network = attention_unet(1, 2, features=[4, 8, 8], strides=_STRIDES).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 1, 2, 4, 8)).shape == (1, 2, 2, 4, 8)


def test_the_configuration_knows_every_kind() -> None:
    assert get_args(ModelSection.model_fields["kind"].annotation) == KINDS


def _run(config: RunConfig, folder: Path, **model: Any):
    values = config.model_dump(mode="json")
    values["model"] |= model
    return create_run(parse_config(values, path="test"), folder)


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        ({"kind": "slice_unet", "backbone": "mobilenet_v3_small", "base_features": 16}, 0.01),
        ({"kind": "segresnet", "max_features": 32}, 0.03),
    ],
    ids=["slice_unet", "segresnet"],
)
def test_from_files_to_results(
    blob_config: RunConfig, tmp_path: Path, model: dict[str, Any], rate: float
) -> None:
    values = blob_config.model_dump(mode="json")
    values["train"] |= {"steps_per_epoch": 40, "learning_rate": rate}
    run = _run(parse_config(values, path="test"), tmp_path / "run", **model)
    prepare(run)
    plan = read_json(run.folder / "plan.json")
    assert plan["values"].keys() == plan["why"].keys()
    train(run, 0)
    predict(run, 0)
    postprocess(run)
    evaluate(run)
    assert load_spec(run.model).kind == model["kind"]
    assert read_json(run.folder / "results.json")["metrics"]["dice"]["mean"]["mean"] > 0.5


def test_slices_lie_across_the_coarsest_spacing(blob_config: RunConfig, tmp_path: Path) -> None:
    chosen = _run(blob_config, tmp_path / "chosen", kind="slice_unet")
    prepare(chosen)
    plan = read_json(chosen.folder / "plan.json")
    assert plan["values"]["spacing_mm"] == [2.0, 1.5, 1.0]
    assert plan["values"]["slice_axis"] == 0
    own = _run(blob_config, tmp_path / "own", kind="slice_unet", slice_axis=2)
    prepare(own)
    values = read_json(own.folder / "plan.json")["values"]
    assert values["slice_axis"] == 2
    assert values["patch_size"][2] < min(values["patch_size"][:2])


def test_a_key_holds_the_bytes_of_the_weights(blob_config: RunConfig, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"one")
    run = _run(blob_config, tmp_path / "run", kind="slice_unet", weights=str(weights))
    prepare(run)
    keys = [training_key(run, 0)]
    weights.write_bytes(b"two")
    keys.append(training_key(run, 0))
    other = _run(blob_config, tmp_path / "other", kind="slice_unet", backbone="mobilenet_v2")
    prepare(other)
    keys.append(training_key(other, 0))
    assert len(set(keys)) == 3
    weights.unlink()
    with pytest.raises(UnreadableFileError, match="missing-file"):
        training_key(run, 0)
    with pytest.raises(UnreadableFileError, match="unreadable-weights"):
        train(run, 0)


@pytest.mark.parametrize(
    ("kind", "patch", "fitting"),
    [
        ("swin_unetr", [32, 32, 32], r"\[64, 32, 32\]"),
        ("swin_unetr", [40, 64, 96], r"\[32, 64, 96\]"),
        ("unetr", [24, 16, 20], r"\[32, 16, 16\]"),
        ("segresnet", [8, 9, 8], r"\[8, 10, 8\]"),
        ("attention_unet", [9, 12, 8], "divisible by the strides"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_with_one_that_does(
    blob_config: RunConfig, tmp_path: Path, kind: str, patch: list[int], fitting: str
) -> None:
    width = {"base_features": None, "max_features": None}
    run = _run(blob_config, tmp_path / "run", kind=kind, patch_size=patch, **width)
    with pytest.raises(ConfigError, match=fitting) as caught:
        prepare(run)
    assert caught.value.code == "bad-patch-size"
    assert kind in caught.value.reason


def test_another_network_makes_the_weights_stale(blob_config: RunConfig, tmp_path: Path) -> None:
    fast = blob_config.model_dump(mode="json")
    fast["train"] |= {"epochs": 1, "steps_per_epoch": 1}
    config = parse_config(fast, path="test")
    run = _run(config, tmp_path / "run", kind="slice_unet", backbone="mobilenet_v3_small")
    prepare(run)
    train(run, 0)
    values = run.config.model_dump(mode="json")
    values["model"]["backbone"] = "mobilenet_v2"
    other = type(run)(run.folder, parse_config(values, path="test"))
    with pytest.raises(OutputError, match="stale-model"):
        predict(other, 0)

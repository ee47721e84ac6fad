"""The networks on the shelf, by task: their size, their weights, and what they are for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args, get_type_hints

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from volumetric.errors import ConfigError
from volumetric.models import plain_cnn3d, slice_network, small_cnn3d, volume_network
from volumetric.models.backbones import BACKBONES
from volumetric.models.slice_encoder import ENCODERS
from volumetric.network_names import (
    ConvertedNetwork,
    DetectorKind,
    MedicalNetwork,
    Segmenter,
    VideoNetwork,
    VolumeNetwork,
)
from volumetric.network_plan import NetworkWish, plan_network
from volumetric.networks import build_network
from volumetric.spec import DetectorSpec, ModelSpec

_PATCH = (96, 96, 96)
_CLIP = (16, 112, 112)
_SLICE = (1, 224, 224)
# Of the finest and the widest stage, for a CPU and for a GPU.
_USUAL = ((16, 128), (32, 320))
_WIDTHS = {
    "swin_unetr": ((12, 192), (48, 768)),
    "unetr": ((8, 192), (16, 768)),
    "slice_unet": ((8, 128), (16, 256)),
}
_HEADS: Mapping[str, tuple[int, ...]] = {
    "anchor_free": (32, 64),
    "residual_anchor_free": (32, 64),
    "faster_rcnn": (64,),
    "sliding_classifier": (16,),
}
_TRAINED_ON = {"imagenet": "ImageNet-1K", "kinetics": "Kinetics-400"}

_PURPOSES: Mapping[str, str] = {
    # that segment
    "unet": "nnU-Net's plain",
    "residual_unet": "nnU-Net's residual",
    "attention_unet": "small structures",
    "segresnet": "light decoder",
    "swin_unetr": "transformer",
    "unetr": "transformer",
    "slice_unet": "thick slices",
    # that find objects
    "anchor_free": "all of a window at once",
    "residual_anchor_free": "residual encoder",
    "faster_rcnn": "two stages, linked slices",
    "sliding_classifier": "slow, a baseline",
    # 3D, for whole volumes and clips
    "small_cnn3d": "clips, the default; for CPUs",
    "plain_cnn3d": "scans, the default; for CPUs",
    "c3d": "plain 3D convolutions; heavy",
    "resnet3d_10": "scans, few cases",
    "resnet3d_18": "scans",
    "resnet3d_34": "scans",
    "resnet3d_50": "scans, many cases",
    "densenet3d_121": "scans; few parameters",
    "se_resnet3d_50": "scans; weighs channels by the whole",
    "resnet18_i3d": "scans and clips; 2D kernels inflated",
    "resnet34_i3d": "scans and clips; 2D kernels inflated",
    "resnet50_i3d": "scans and clips; 2D kernels inflated",
    "resnet18_acs": "scans; 2D kernels in three planes",
    "resnet34_acs": "scans; 2D kernels in three planes",
    "resnet50_acs": "scans; 2D kernels in three planes",
    "r3d_18": "clips; the plain baseline",
    "mc3_18": "clips; time in the first stages only",
    "r2plus1d_18": "clips; frame and time apart",
    "s3d": "clips; accurate for its cost",
    "mvit_v2_s": "clips of one size; the most accurate",
    "swin3d_t": "clips; transformer for any size",
    # 2D, a slice or frame at a time
    "alexnet": "features for little data, as in MRNet",
    "vgg11": "plain; no norm, for tiny batches",
    "vgg11_bn": "plain",
    "vgg16": "plain; no norm, for tiny batches",
    "vgg16_bn": "plain; heavy",
    "resnet18": "the usual start",
    "resnet34": "a deeper resnet18",
    "resnet50": "many cases",
    "inception_v3": "several scales at once",
    "googlenet": "several scales at once, light",
    "efficientnet_b0": "accurate for its cost",
    "efficientnet_v2_s": "accurate; many cases",
    "mobilenet_v2": "light; known from TSM",
    "mobilenet_v3_small": "the lightest: a CPU",
    "mobilenet_v3_large": "light, more accurate",
    "densenet121": "known from chest X-rays",
    "convnext_tiny": "modern, accurate; a GPU",
}


@dataclass(frozen=True)
class Listed:
    """A network as it is listed.

    Attributes:
        name: as a configuration has it.
        parameters: numbers that are learnt.
        flops: of one forward pass at the section's input; a multiply-add is two.
        weights: that it can start from.
        purpose: what it is for.
    """

    name: str
    parameters: int
    flops: int
    weights: str
    purpose: str


def list_models(only: str | None = None) -> Iterator[str]:
    """A title and table for each task, or for one of `SECTIONS` only; each as soon as it is made.

    Raises:
        ConfigError: no such section.
    """
    if only is not None and only not in SECTIONS:
        raise ConfigError(
            "unknown-task", f"no networks are listed under {only!r}", f"Use {', '.join(SECTIONS)}"
        )
    for task, (title, find) in SECTIONS.items():
        if only in (None, task):
            yield _show(title, find())


def _show(title: str, networks: list[Listed]) -> str:
    lines = [title, f"  {'':<20}{'parameters':>11}{'GFLOPs':>9}   {'weights':<17}what for"]
    for network in networks:
        size = f"{network.parameters / 1e6:>9.2f} M{network.flops / 1e9:>9.2f}"
        row = f"  {network.name:<20}{size}   {network.weights:<17}{network.purpose}"
        lines.append(row.rstrip())
    return "\n".join(lines) + "\n"


def _segmenters() -> list[Listed]:
    """Every kind that a model which segments can be of, at the width of each preset."""
    networks = []
    for kind in get_args(get_type_hints(ModelSpec)["kind"]):
        for base, largest in _WIDTHS.get(kind, _USUAL):
            spec = _segmenter(kind, base, largest)
            parameters, flops = _measure(partial(build_network, spec), 1, spec.patch_size)
            purpose = f"{_PURPOSES[kind]}, {spec.features[0]} to {spec.features[-1]} features"
            weights = "imagenet (2D)" if kind == "slice_unet" else "none"
            networks.append(Listed(kind, parameters, flops, weights, purpose))
    return networks


def _segmenter(kind: Segmenter, base: int, largest: int) -> ModelSpec:
    wish = NetworkWish(kind, base_features=base, max_features=largest)
    plan = plan_network(wish, _PATCH, (1, 1, 1))
    return ModelSpec(
        kind=kind,
        n_channels=1,
        classes={1: "one", 2: "two"},
        features=plan.features,
        strides=plan.strides,
        kernels=plan.kernels,
        patch_size=plan.patch_size,
        spacing_mm=(1, 1, 1),
        intensity={"kind": "zscore"},
        backbone="mobilenet_v2" if kind == "slice_unet" else None,
    )


def _detectors() -> list[Listed]:
    """Every kind that finds objects, at the widths for a CPU and for a GPU."""
    networks = []
    for kind in get_args(DetectorKind):
        for (base, largest), width in zip(_USUAL, _HEADS[kind], strict=False):
            plan = plan_network(NetworkWish("unet", base, largest, 4), _PATCH, (1, 1, 1))
            on_slices = kind == "faster_rcnn"
            spec = DetectorSpec(
                kind=kind,
                n_channels=1,
                classes=["one", "two"],
                features=ENCODERS["resnet18"].widths if on_slices else plan.features,
                strides=plan.strides,
                kernels=plan.kernels,
                n_levels=3,
                width=width,
                patch_size=plan.patch_size,
                spacing_mm=(1, 1, 1),
                intensity={"kind": "zscore"},
                box_size=(12, 12, 12),
                backbone="resnet18" if on_slices else None,
            )
            # How many regions are looked at again depends on values.
            device = "cpu" if on_slices else "meta"
            build = partial(build_network, spec)
            parameters, flops = _measure(build, 1, spec.patch_size, device=device)
            weights = "imagenet (2D)" if on_slices else "none"
            purpose = f"{_PURPOSES[kind]}, {width} features"
            networks.append(Listed(kind, parameters, flops, weights, purpose))
    return networks


def _volume_networks() -> list[Listed]:
    plain = partial(plain_cnn3d, 3, 2, strides=[(2, 2, 2)] * 3)
    networks = [
        Listed(name, *_measure(build, 3, _CLIP), "none", _PURPOSES[name])
        for name, build in (("small_cnn3d", partial(small_cnn3d, 3, 2)), ("plain_cnn3d", plain))
    ]
    for name in get_args(VolumeNetwork):
        build = partial(volume_network, name, n_channels=3, n_classes=2, shape=_CLIP)
        size = _measure(build, 3, _CLIP)
        networks.append(Listed(name, *size, _weights_of_3d(name), _PURPOSES[name]))
    return networks


def _weights_of_3d(name: str) -> str:
    if name in get_args(VideoNetwork):
        return _published(name)
    if name in get_args(ConvertedNetwork):
        return "imagenet (2D)"
    return "MedicalNet file" if name in get_args(MedicalNetwork) else "own file"


def _backbones() -> list[Listed]:
    networks = []
    for name in BACKBONES:
        size = _measure(partial(slice_network, name, n_channels=3, n_classes=2), 3, _SLICE)
        networks.append(Listed(name, *size, _published(name), _PURPOSES.get(name, "")))
    return networks


def _published(name: str) -> str:
    """The kind of weights torchvision has of a network, and its first guesses that are right."""
    from torchvision.models import get_model_weights

    meta = get_model_weights(name).DEFAULT.meta["_metrics"]
    for kind, data_set in _TRAINED_ON.items():
        if data_set in meta:
            return f"{kind} {meta[data_set]['acc@1']:.1f} %"
    return "own file"


def _measure(
    build: Callable[[], nn.Module],
    n_channels: int,
    shape: tuple[int, int, int],
    *,
    device: str = "meta",
) -> tuple[int, int]:
    """Parameters and floating-point operations, on the meta device without memory for either."""
    try:
        with torch.device(device):
            network = build()
    except RuntimeError:  # Swin UNETR computes with numbers while it is built
        network = build().to(device)
    counter = FlopCounterMode(display=False)
    with torch.device(device), counter, torch.no_grad():
        network.eval()(torch.zeros(1, n_channels, *shape))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


SECTIONS: Mapping[str, tuple[str, Callable[[], list[Listed]]]] = {
    "segmentation": (
        f"segmentation: a class for each voxel of 1 x {_by(_PATCH)}; as presets for CPU and GPU",
        _segmenters,
    ),
    "volumes": (
        f"volumes: a label for a whole volume or clip of 3 x {_by(_CLIP)}, by a 3D network",
        _volume_networks,
    ),
    "detection": (
        f"detection: boxes of objects in 1 x {_by(_PATCH)}; for CPU and GPU",
        _detectors,
    ),
    "slices": (
        f"slices: the same, by a 2D network; of one slice or frame of 3 x {_by(_SLICE[1:])}",
        _backbones,
    ),
}

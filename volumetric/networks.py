"""Networks: what a spec describes, built."""

from __future__ import annotations

import math
from typing import Any, get_args

from torch import nn

from volumetric.errors import ConfigError
from volumetric.models import (
    UNet,
    plain_cnn3d,
    slice_network,
    slice_unet,
    small_cnn3d,
    volume_network,
)
from volumetric.models.detector import Detector
from volumetric.models.segmenters import attention_unet, segresnet, swin_unetr, unetr
from volumetric.models.slice_detector import SliceDetector
from volumetric.models.slice_encoder import slice_encoder
from volumetric.models.sliding import SlidingClassifier
from volumetric.network_names import VolumeNetwork, weights_path
from volumetric.plan import choose_strides
from volumetric.spec import (
    AnySpec,
    ClassifierSpec,
    DetectorSpec,
    ModelSpec,
    PretrainedSpec,
    ScanClassifierSpec,
)
from volumetric.splitting import N_CHANNELS

Triple = tuple[int, int, int]

_STEPS = 3  # of a sliding classifier from one end of its box to the other
_AROUND = 2  # times the box's side is what it sees
_LEAST_SEEN = 6  # voxels along a side
_NEIGHBOURS = 1  # slices before and after each that faster_rcnn sees with it
_SIDE_SEEN = 4  # voxels that the longest side of a scan is brought to, before its mean is taken


def build_network(spec: AnySpec, *, weights: str = "none", checkpoint: bool = False) -> nn.Module:
    """A network as specified, with fresh weights from torch's global generator.

    `checkpoint`: see `SliceNetwork`; of networks for scans only.

    `weights` names those that a classifier, or the 2D network in another, starts from: "imagenet",
    "kinetics", or a file.

    Raises:
        ConfigError, DownloadError, UnreadableFileError, UnsupportedError: no such weights.
    """
    if isinstance(spec, ClassifierSpec):
        return _build_clip_classifier(spec, weights)
    if isinstance(spec, ScanClassifierSpec):
        return _build_scan_classifier(spec, weights, checkpoint)
    if isinstance(spec, DetectorSpec):
        return _build_detector(spec, weights)
    if isinstance(spec, PretrainedSpec):
        return _unet(spec, spec.n_channels)
    return _build_segmenter(spec, weights)


def _build_segmenter(spec: ModelSpec, weights: str) -> nn.Module:
    n_classes = len(spec.classes) + 1 + (N_CHANNELS if spec.splits else 0)
    match spec.kind:
        case "unet" | "residual_unet":
            return _unet(spec, n_classes)
        case "attention_unet":
            return attention_unet(
                spec.n_channels, n_classes, features=spec.features, strides=spec.strides
            )
        case "segresnet":
            return segresnet(spec.n_channels, n_classes, features=spec.features)
        case "swin_unetr":
            return swin_unetr(spec.n_channels, n_classes, features=spec.features)
        case "unetr":
            return unetr(
                spec.n_channels, n_classes, features=spec.features, patch_size=spec.patch_size
            )
        case "slice_unet":
            return slice_unet(
                str(spec.backbone),
                n_channels=spec.n_channels,
                n_classes=n_classes,
                features=spec.features,
                slice_axis=spec.slice_axis,
                weights=_source(weights),
            )


def _unet(spec: ModelSpec | PretrainedSpec, n_outputs: int) -> UNet:
    return UNet(
        spec.n_channels,
        n_outputs,
        features=spec.features,
        strides=spec.strides,
        kernels=spec.kernels,
        residual=spec.kind == "residual_unet",
    )


def _build_detector(spec: DetectorSpec, weights: str) -> nn.Module:
    if spec.kind == "faster_rcnn":
        neighbours = min(_NEIGHBOURS, spec.patch_size[spec.slice_axis] - 1)
        stages, widths = slice_encoder(
            str(spec.backbone),
            n_stages=len(spec.features),
            n_channels=(2 * neighbours + 1) * spec.n_channels,
            weights=_source(weights),
        )
        return SliceDetector(
            stages,
            widths,
            n_classes=len(spec.classes),
            n_levels=spec.n_levels,
            width=spec.width,
            neighbours=neighbours,
            slice_axis=spec.slice_axis,
        )
    if spec.kind == "sliding_classifier":
        assert spec.box_size is not None
        sides = [max(1, round(side / _STEPS)) for side in spec.box_size]
        window = [max(_LEAST_SEEN, math.ceil(_AROUND * side)) for side in spec.box_size]
        return SlidingClassifier(
            spec.n_channels,
            len(spec.classes),
            window=(window[0], window[1], window[2]),
            step=(sides[0], sides[1], sides[2]),
            box=spec.box_size,
            spacing=spec.spacing_mm,
            width=spec.width,
        )
    return Detector(
        spec.n_channels,
        len(spec.classes),
        features=spec.features,
        strides=spec.strides,
        kernels=spec.kernels,
        n_levels=spec.n_levels,
        width=spec.width,
        residual=spec.kind == "residual_anchor_free",
    )


def _build_clip_classifier(spec: ClassifierSpec, weights: str) -> nn.Module:
    n_channels = 6 if spec.input == "both" else 3
    if spec.kind == "small_cnn3d":
        _refuse_weights(spec.kind, weights)
        return small_cnn3d(n_channels, len(spec.classes))
    if spec.kind in get_args(VolumeNetwork):
        shape = (spec.frames, *spec.frame_size)
        return _volume_network(spec, n_channels, shape, weights)
    return slice_network(
        spec.kind,
        n_channels=n_channels,
        n_classes=len(spec.classes),
        aggregate=spec.aggregate,
        shift=spec.shift,
        streams=n_channels // 3,
        members=spec.members,
        weights=_source(weights),
    )


def _build_scan_classifier(spec: ScanClassifierSpec, weights: str, checkpoint: bool) -> nn.Module:
    if spec.kind == "plain_cnn3d":
        _refuse_weights(spec.kind, weights)
        n_stages = max(3, math.ceil(math.log2(max(spec.shape) / _SIDE_SEEN)))
        strides = choose_strides(spec.shape, spec.spacing_mm, n_strides=n_stages)
        return plain_cnn3d(spec.n_channels, len(spec.classes), strides=strides)
    if spec.kind in get_args(VolumeNetwork):
        return _volume_network(spec, spec.n_channels, spec.shape, weights)
    return slice_network(
        spec.kind,
        n_channels=spec.n_channels,
        n_classes=len(spec.classes),
        aggregate=spec.aggregate,
        planes=spec.planes,
        neighbours=spec.neighbours,
        members=spec.members,
        checkpoint=checkpoint,
        weights=_source(weights),
    )


def _volume_network(
    spec: ClassifierSpec | ScanClassifierSpec, n_channels: int, shape: Triple, weights: str
) -> nn.Module:
    name: Any = spec.kind
    return volume_network(
        name,
        n_channels=n_channels,
        n_classes=len(spec.classes),
        weights=_source(weights),
        shape=shape,
    )


def _refuse_weights(kind: str, weights: str) -> None:
    if weights != "none":
        raise ConfigError(
            "unknown-weights",
            f"there are no weights {weights!r} of {kind}",
            "Use none, or another network",
        )


def _source(weights: str) -> Any:
    return weights_path(weights) or weights

"""What networks are called, apart from what builds them: names cost nothing to import."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

SliceBackbone = Literal[
    "alexnet",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
    "resnet18",
    "resnet34",
    "resnet50",
    "inception_v3",
    "googlenet",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "densenet121",
    "convnext_tiny",
]
"""torchvision's 2D networks that a SliceNetwork is made of."""

Aggregate = Literal["mean", "max", "attention", "mean_max", "conv3d", "transformer", "lstm"]
"""How slices become one answer; see volumetric.models.heads.SliceHead."""

VideoNetwork = Literal["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"]
"""torchvision's networks for clips."""

MedicalNetwork = Literal["resnet3d_10", "resnet3d_18", "resnet3d_34", "resnet3d_50"]
ConvertedNetwork = Literal[
    "resnet18_i3d", "resnet34_i3d", "resnet50_i3d", "resnet18_acs", "resnet34_acs", "resnet50_acs"
]
VolumeNetwork = Literal[
    "c3d", MedicalNetwork, "densenet3d_121", "se_resnet3d_50", ConvertedNetwork, VideoNetwork
]
"""3D networks; see volumetric.models.volumes.volume_network."""

Segmenter = Literal[
    "unet",
    "residual_unet",
    "attention_unet",
    "segresnet",
    "swin_unetr",
    "unetr",
    "slice_unet",
]
"""Networks that segment."""

DetectorKind = Literal["anchor_free", "residual_anchor_free", "faster_rcnn", "sliding_classifier"]
"""Networks that find objects; see volumetric.models: detector, slice_detector and sliding."""

SliceEncoder = Literal[
    "efficientnet_b0",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet18",
    "resnet34",
    "resnet50",
]
"""2D networks that the encoders of slice_unet and faster_rcnn are made of."""

NamedWeights = Literal["none", "imagenet", "kinetics"]
"""What a network may start from, besides a file."""


def weights_path(weights: str) -> Path | None:
    """The file that a choice of weights names, if it is one."""
    return None if weights in get_args(NamedWeights) else Path(weights)

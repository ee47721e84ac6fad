"""The shelf of 3D networks that label whole volumes and clips."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import ConfigError
from volumetric.models.c3d import c3d
from volumetric.models.cnn3d import video_network
from volumetric.models.inflate import Conversion, convert_resnet
from volumetric.models.sizes import take_small_images
from volumetric.models.weights import Weights, adapt_first_layer, load_backbone
from volumetric.network_names import ConvertedNetwork, VideoNetwork, VolumeNetwork

# Depth, and the kind of shortcut (He 2016) that Tencent's weights have: A adds no parameters.
_MEDICAL: dict[str, tuple[int, Literal["A", "B"]]] = {
    "resnet3d_10": (10, "B"),
    "resnet3d_18": (18, "A"),
    "resnet3d_34": (34, "A"),
    "resnet3d_50": (50, "B"),
}
_CONVERSIONS: dict[str, Conversion] = {"i3d": "inflate", "acs": "acs"}


def volume_network(
    name: VolumeNetwork,
    *,
    n_channels: int = 1,
    n_classes: int,
    weights: Weights = "none",
    shape: tuple[int, int, int] = (16, 224, 224),
) -> nn.Module:
    """The 3D network of this name: logits (B, n_classes) of images (B, n_channels, D, H, W).

    Any size is taken from one voxel on, save by mvit_v2_s, which is built for one `shape`
    (D, H, W); all can be exported and compiled.

    - c3d: see `volumetric.models.c3d.c3d` (Tran 2015). Weights: a file.
    - resnet3d_10, 18, 34, 50: MedicalNet's ResNets (Chen 2019) as MONAI builds them, halved along
      every axis five times. Weights: a file of Tencent's. Its own networks, made to segment,
      widen layers 3 and 4 by dilation where these halve; the tensors are the same. Identity
      shortcuts (18, 34) pass gradients on, which MONAI's and Tencent's do not.
    - densenet3d_121 (Huang 2017), se_resnet3d_50 (Hu 2018): MONAI's. Weights: a file.
    - resnet18_i3d and so on: torchvision's 2D ResNets by `convert_resnet`, inflated (i3d) or in
      three planes (acs). Weights: imagenet, or a file of the 2D network.
    - r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v2_s, swin3d_t: see `video_network`. Weights:
      kinetics, or a file.

    Weights are of one channel (resnet3d), of three, or of `n_channels` (densenet3d_121,
    se_resnet3d_50); `adapt_first_layer` says how they meet another number.

    Raises:
        ConfigError: an unknown name, fewer than one channel, no such weights, a bad `shape`.
        DownloadError, UnreadableFileError, UnsupportedError: see `load_backbone`.
        GeometryError: when called, an image of another size than MViT's, or one value a channel
            to learn from.
    """
    if name in get_args(VideoNetwork):
        video_name = cast(VideoNetwork, name)
        return video_network(
            video_name, n_channels=n_channels, n_classes=n_classes, weights=weights, shape=shape
        )
    if name not in get_args(VolumeNetwork) or n_channels < 1:
        raise ConfigError(
            "unknown-network",
            f"{name!r} of {n_channels} channels is no 3D network",
            f"Give at least one channel, and one of {', '.join(get_args(VolumeNetwork))}",
        )
    if name in get_args(ConvertedNetwork):
        return _converted(name, n_channels, n_classes, weights=weights)
    learnt_channels = {"c3d": 3, "densenet3d_121": n_channels, "se_resnet3d_50": n_channels}
    built_channels = n_channels if weights == "none" else learnt_channels.get(name, 1)
    if name == "c3d":
        network: nn.Module = c3d(built_channels, n_classes)
    else:
        network = _monai_network(name, built_channels, n_classes)
    load_backbone(network, weights, name=name)
    if built_channels != n_channels:
        adapt_first_layer(network, n_channels)
    take_small_images(network)
    return network


def _converted(name: str, n_channels: int, n_classes: int, *, weights: Weights) -> nn.Module:
    from torchvision.models import get_model

    flat_name, _, how = name.partition("_")
    flat = get_model(flat_name, weights=None, num_classes=n_classes)
    load_backbone(flat, weights, name=flat_name)
    adapt_first_layer(flat, n_channels)
    network = convert_resnet(flat, how=_CONVERSIONS[how])
    take_small_images(network)
    return network


def _monai_network(name: str, n_channels: int, n_classes: int) -> nn.Module:
    from monai.networks import nets  # takes seconds

    if name == "densenet3d_121":
        dense: nn.Module = nets.DenseNet121(
            spatial_dims=3, in_channels=n_channels, out_channels=n_classes
        )
        return dense
    if name == "se_resnet3d_50":
        squeezing: nn.Module = nets.SEResNet50(
            spatial_dims=3, in_channels=n_channels, num_classes=n_classes
        )
        return squeezing
    depth, shortcut = _MEDICAL[name]
    builders = {10: nets.resnet10, 18: nets.resnet18, 34: nets.resnet34, 50: nets.resnet50}
    network: nn.Module = builders[depth](
        spatial_dims=3,
        n_input_channels=n_channels,
        num_classes=n_classes,
        conv1_t_stride=2,
        shortcut_type=shortcut,
        bias_downsample=False,
    )
    if shortcut == "A":
        _free_shortcuts(network)
    return network


def _free_shortcuts(network: nn.Module) -> None:
    """Put shortcuts that pass gradients on in place of MONAI's, which take their input's data."""
    for stage in ("layer2", "layer3", "layer4"):
        block = cast(Any, network.get_submodule(stage))[0]
        block.downsample = _IdentityShortcut(block.conv1.out_channels, block.stride)


class _IdentityShortcut(nn.Module):
    """Every `stride`-th voxel, and zeros for the channels that come in addition (He 2016, A)."""

    def __init__(self, n_channels: int, stride: int):
        super().__init__()
        self.n_channels = n_channels
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fewer = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.pad(fewer, (0, 0) * 3 + (0, self.n_channels - x.shape[1]))

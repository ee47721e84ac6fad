"""Networks that see time or depth: 3D convolutions and video transformers, of (B, C, D, H, W)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import ConfigError, GeometryError
from volumetric.models.sizes import take_small_images
from volumetric.models.weights import Weights, adapt_first_layer, load_backbone
from volumetric.network_names import VideoNetwork

_Strides = Sequence[tuple[int, int, int]]
_CHANNELS_LAST = torch.channels_last_3d  # a third less time on CPUs
_OF_CLIPS: _Strides = ((1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))


def plain_cnn3d(
    n_channels: int, n_classes: int, *, strides: _Strides, width: int = 32, widest: int = 256
) -> nn.Sequential:
    """A network of scans for two CPU cores: logits (B, n_classes) of (B, n_channels, D, H, W).

    One 3 x 3 x 3 convolution a stage, each of which shortens the axes by its stride, and their mean
    over the whole volume. Any size of at least one voxel.

    Args:
        n_channels: channels of the images.
        n_classes: numbers returned for each image.
        strides: along (D, H, W), of each stage.
        width: channels of the first stage; the others have twice as many as the one before.
        widest: channels at most.
    """
    widths = [n_channels, *(min(widest, width * 2**stage) for stage in range(len(strides)))]
    stages = [
        nn.Sequential(
            _convolution(before, after, kernel=(3, 3, 3), stride=stride), nn.ReLU(inplace=True)
        )
        for (before, after), stride in zip(pairwise(widths), strides, strict=True)
    ]
    network = nn.Sequential(
        OrderedDict(
            stages=nn.Sequential(*stages),
            pool=nn.AdaptiveAvgPool3d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.5),
            head=nn.Linear(widths[-1], n_classes),
        )
    )
    return network.to(memory_format=_CHANNELS_LAST)


def small_cnn3d(n_channels: int, n_classes: int, *, width: int = 24) -> nn.Sequential:
    """A network of clips for two CPU cores: logits (B, n_classes) of (B, n_channels, D, H, W).

    Convolutions are split into one over the frame and one over time, as in R(2+1)D (Tran 2018).
    A clip's frame is halved on entry and by each of four stages, its time only by the last two:
    motion is seen at full rate while it is fine, and most of the work is done on small frames.
    About 0.5 million parameters at the default width; any size of at least one voxel.

    Args:
        n_channels: channels of the images.
        n_classes: numbers returned for each image.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
    """
    first, *others = _OF_CLIPS
    stem = _convolution(n_channels, width, kernel=(3, 5, 5), stride=first)
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    stages = [
        _Block(before, after, stride=stride)
        for (before, after), stride in zip(pairwise(widths), others, strict=True)
    ]
    network = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(stem, nn.ReLU(inplace=True)),
            stages=nn.Sequential(*stages),
            pool=nn.AdaptiveAvgPool3d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.2),
            head=nn.Linear(8 * width, n_classes),
        )
    )
    return network.to(memory_format=_CHANNELS_LAST)


def video_network(
    name: VideoNetwork,
    *,
    n_channels: int = 3,
    n_classes: int,
    weights: Weights = "none",
    shape: tuple[int, int, int] = (16, 224, 224),
) -> nn.Module:
    """The network torchvision has of this name: logits (B, n_classes) of (B, n_channels, D, H, W).

    R3D-18, MC3-18, R(2+1)D-18 (Tran 2018), Swin3D-T (Liu 2022): any size. S3D (Xie 2018): any
    size, where torchvision's own needs (14, 224, 224); equal to it from there on. MViTv2-S (Li
    2022): the one `shape` (D, H, W) it is built for, of which the others make no use; Kinetics'
    weights fit the default. `adapt_first_layer` says how weights meet other channels than three.

    Raises:
        ConfigError: an unknown name, fewer than one channel, or no such weights, a `shape`
            that MViT cannot be built for.
        DownloadError, UnreadableFileError, UnsupportedError: see `load_backbone`.
        GeometryError: when called, MViT with another size than its own, or one value a channel to
            learn from.
    """
    if name not in get_args(VideoNetwork):
        raise ConfigError(
            "unknown-network",
            f"{name!r} is no video network",
            f"Use one of {', '.join(get_args(VideoNetwork))}",
        )
    from torchvision.models import get_model

    network: nn.Module
    if name == "mvit_v2_s":
        network = _mvit_v2_s(n_classes, shape=shape)
    else:
        network = get_model(name, weights=None, num_classes=n_classes)
    load_backbone(network, weights, name=name)
    adapt_first_layer(network, n_channels)
    take_small_images(network)
    return network


class _Block(nn.Module):
    """relu(shortcut(x) + over_time(over_frame(x)))."""

    def __init__(self, channels: int, width: int, *, stride: tuple[int, int, int]):
        super().__init__()
        through, *within = stride
        self.over_frame = _convolution(channels, width, kernel=(1, 3, 3), stride=(1, *within))
        self.over_time = _convolution(width, width, kernel=(3, 1, 1), stride=(through, 1, 1))
        self.shortcut = _convolution(channels, width, kernel=(1, 1, 1), stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.over_time(F.relu(self.over_frame(x), inplace=True))
        return F.relu(y + self.shortcut(x), inplace=True)


def _mvit_v2_s(n_classes: int, *, shape: tuple[int, int, int]) -> nn.Module:
    """MViTv2-S for one size: torchvision's own function builds it for (16, 224, 224) only."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    frames, *sides = shape
    if frames < 2 or frames % 2 or any(side < 32 or side % 4 for side in sides):
        raise ConfigError(
            "bad-shape",
            f"mvit_v2_s cannot be built for (D, H, W) = {shape}",
            "Use an even number of frames, and sides from 32 on that are multiples of 4",
        )
    widths = [96] + [192] * 2 + [384] * 11 + [768] * 2
    # Each stage has twice the width and heads, half the frame, and the same grid of keys.
    blocks = [
        MSBlockConfig(
            num_heads=width // 96,
            input_channels=before,
            output_channels=width,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, 1, 1] if width == before else [1, 2, 2],
            stride_kv=[1, 768 // width, 768 // width],
        )
        for before, width in zip([96, *widths], widths, strict=False)
    ]
    network: nn.Module = MViT(
        spatial_size=shape[1:],
        temporal_size=shape[0],
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=0.2,
        num_classes=n_classes,
    )
    network.register_forward_pre_hook(_require_built_shape)
    return network


def _require_built_shape(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Say what torch would say obscurely: MViT's tables of positions fit one size only."""
    positions = cast(Any, module.pos_encoding)
    height, width = positions.spatial_size
    built = (2 * positions.temporal_size, 4 * height, 4 * width)
    found = tuple(inputs[0].shape[2:])
    if found != built:
        raise GeometryError(
            "bad-shape",
            f"mvit_v2_s is built for {built}, and was given {found}",
            "Choose as many frames of that size, build it for these, or use swin3d_t",
        )


def _convolution(
    channels: int, width: int, *, kernel: tuple[int, int, int], stride: tuple[int, ...]
) -> nn.Sequential:
    padding = tuple(k // 2 for k in kernel)
    return nn.Sequential(
        nn.Conv3d(channels, width, kernel, stride, padding, bias=False),  # type: ignore[arg-type]
        nn.BatchNorm3d(width),
    )

"""A 2D U-Net on every slice: the encoder is a network of photographs, whose weights may be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.models.slice_encoder import slice_encoder
from volumetric.models.weights import Weights


class SliceUNet(nn.Module):
    """Logits (B, classes, D, H, W) from images (B, channels, D, H, W), each slice for itself.

    The U-Net of Ronneberger 2015 with an encoder of another making: each decoder stage doubles
    the map (nearest neighbour), joins what the encoder found at that size, and convolves twice.
    Encoders begin at half the slice's sides; two convolutions of the image itself join the last
    stage, so that edges are seen as they are. Slices may have any size: an odd side is halved
    upwards, and the row too many that doubling makes is cut off. Training needs more than one
    slice, since batch normalisation does.

    Args:
        stages: of the encoder, each from maps (N, C, h, w) to maps of half their sides.
        widths: channels that come out of each, in order.
        n_channels: channels of the image.
        n_classes: classes, background included.
        features: channels of each decoder stage, finest first, one for each of the encoder's.
        slice_axis: what a slice lies across: 0 D, 1 H or 2 W.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        widths: Sequence[int],
        *,
        n_channels: int,
        n_classes: int,
        features: Sequence[int],
        slice_axis: int = 0,
    ):
        super().__init__()
        if not len(stages) == len(widths) == len(features) >= 1:
            raise ValueError(f"stages differ: {len(stages)=}, {widths=}, {features=}")
        self.slice_axis = slice_axis
        self.encoder = nn.ModuleList(stages)
        self.stem = _two_convolutions(n_channels, features[0])
        skips = [features[0], *widths[:-1]]
        below = [*features[1:], widths[-1]]
        self.decoder = nn.ModuleList(
            _two_convolutions(skip + deeper, width)
            for skip, deeper, width in zip(skips, below, features, strict=True)
        )
        self.head = nn.Conv2d(features[0], n_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits: see the class."""
        volumes = images.movedim(2 + self.slice_axis, 2)
        batch, channels, depth, height, width = volumes.shape
        slices = volumes.transpose(1, 2).reshape(batch * depth, channels, height, width)
        # Depthwise convolutions take half the time with channels last.
        x = slices.contiguous(memory_format=torch.channels_last)
        skips = [self.stem(x)]
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        for decode, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            doubled = F.interpolate(x, scale_factor=2.0)[..., : skip.shape[2], : skip.shape[3]]
            x = decode(torch.cat([doubled, skip], 1))
        logits: torch.Tensor = self.head(x)
        logits = logits.reshape(batch, depth, -1, height, width).transpose(1, 2)
        return logits.movedim(2, 2 + self.slice_axis)


def slice_unet(
    backbone: str,
    *,
    n_channels: int = 1,
    n_classes: int,
    features: Sequence[int],
    slice_axis: int = 0,
    weights: Weights = "none",
) -> SliceUNet:
    """A `SliceUNet` whose encoder is one of torchvision's 2D networks.

    `torch.export` (and so ONNX) and `torch.compile` take it. With three channels, `features` of
    16 to 256 and resnet18 it has the parameters of segmentation-models-pytorch's Unet, the
    convolutions of the image itself added.

    Args:
        backbone: see `slice_encoder`.
        n_channels: channels of the images; see `slice_encoder`.
        n_classes: classes, background included.
        features: channels of each decoder stage, finest first; as many of the encoder's stages
            are used.
        slice_axis: see `SliceUNet`.
        weights: of the encoder; see `load_backbone`.

    Raises:
        ConfigError, DownloadError, UnreadableFileError, UnsupportedError: see `slice_encoder`.
    """
    stages, widths = slice_encoder(
        backbone, n_stages=len(features), n_channels=n_channels, weights=weights
    )
    return SliceUNet(
        stages,
        widths,
        n_channels=n_channels,
        n_classes=n_classes,
        features=features,
        slice_axis=slice_axis,
    )


def _two_convolutions(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in in (channels, width):
        # The bias would be removed by the batch norm that follows.
        convolution = nn.Conv2d(n_in, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)

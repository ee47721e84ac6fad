"""The 3D U-Net, plain or with a residual encoder, supervised at every depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

Triple = tuple[int, int, int]


class UNet(nn.Module):
    """Logits (B, classes, D, H, W) from images (B, channels, D, H, W).

    In training it returns the logits of every decoder stage but the coarsest, finest first;
    in evaluation only the finest. D, H and W must be divisible by the product of the strides.
    After Ronneberger 2015 and Çiçek 2016, in nnU-Net's form (Isensee 2021: instance norm,
    leaky ReLU, strided convolutions, deep supervision); the residual encoder follows
    Isensee 2024 (nnU-Net Revisited).

    Args:
        in_channels: channels of the image.
        n_classes: classes, background included.
        features: channels of each stage, finest first.
        strides: stride with which each stage is entered; the first is (1, 1, 1).
        kernels: convolution kernel of each stage.
        residual: encoder of residual blocks (1, 3, 4, 6, 6, … a stage) instead of two convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        *,
        features: Sequence[int],
        strides: Sequence[Triple],
        kernels: Sequence[Triple],
        residual: bool = False,
    ):
        super().__init__()
        if not len(features) == len(strides) == len(kernels) >= 2:
            raise ValueError(f"stages differ: {features=}, {strides=}, {kernels=}")
        self.encoder = encoder_stages(
            in_channels, features=features, strides=strides, kernels=kernels, residual=residual
        )
        channels = features[-1]
        self.upsample = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for stage in reversed(range(len(features) - 1)):
            width, stride = features[stage], strides[stage + 1]
            self.upsample.append(nn.ConvTranspose3d(channels, width, stride, stride))
            self.decoder.append(
                _plain_stage(2 * width, width, stride=(1, 1, 1), kernel=kernels[stage], stage=stage)
            )
            channels = width
        supervised = max(1, len(features) - 2)
        self.heads = nn.ModuleList(
            nn.Conv3d(width, n_classes, 1) for width in reversed(features[:supervised])
        )
        self.apply(_initialise)

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits: see the class."""
        skips = []
        x = images
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        features = []
        for upsample, decode, skip in zip(
            self.upsample, self.decoder, reversed(skips[:-1]), strict=True
        ):
            x = decode(torch.cat([upsample(x), skip], dim=1))
            features.append(x)
        if not self.training:
            result: torch.Tensor = self.heads[-1](x)
            return result
        supervised = features[-len(self.heads) :]
        outputs = [head(x) for head, x in zip(self.heads, supervised, strict=True)]
        return outputs[::-1]


def encoder_stages(
    in_channels: int,
    *,
    features: Sequence[int],
    strides: Sequence[Triple],
    kernels: Sequence[Triple],
    residual: bool = False,
) -> nn.ModuleList:
    """The stages of an encoder, finest first: each takes what the one before it gives out."""
    block = _residual_stage if residual else _plain_stage
    stages = nn.ModuleList()
    channels = in_channels
    for stage, (width, stride, kernel) in enumerate(zip(features, strides, kernels, strict=True)):
        stages.append(block(channels, width, stride=stride, kernel=kernel, stage=stage))
        channels = width
    return stages


class _Residual(nn.Module):
    """relu(x' + conv(relu(conv(x)))): the basic block of He 2015 with instance norm."""

    def __init__(self, channels: int, width: int, *, stride: Triple, kernel: Triple):
        super().__init__()
        self.first = _convolution(channels, width, stride=stride, kernel=kernel)
        self.second = nn.Sequential(
            _conv(width, width, stride=(1, 1, 1), kernel=kernel),
            nn.InstanceNorm3d(width, affine=True),
        )
        shortcut: list[nn.Module] = []
        if stride != (1, 1, 1):
            shortcut.append(nn.AvgPool3d(stride, stride))
        if channels != width:
            shortcut += [
                nn.Conv3d(channels, width, 1, bias=False),
                nn.InstanceNorm3d(width, affine=True),
            ]
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.activation(self.shortcut(x) + self.second(self.first(x)))
        return result


def _plain_stage(
    channels: int,
    width: int,
    *,
    stride: Triple,
    kernel: Triple,
    stage: int,  # noqa: ARG001
) -> nn.Sequential:
    return nn.Sequential(
        _convolution(channels, width, stride=stride, kernel=kernel),
        _convolution(width, width, stride=(1, 1, 1), kernel=kernel),
    )


def _residual_stage(
    channels: int, width: int, *, stride: Triple, kernel: Triple, stage: int
) -> nn.Sequential:
    n_blocks = (1, 3, 4, 6)[min(stage, 3)]
    first = _Residual(channels, width, stride=stride, kernel=kernel)
    rest = [_Residual(width, width, stride=(1, 1, 1), kernel=kernel) for _ in range(n_blocks - 1)]
    return nn.Sequential(first, *rest)


def _convolution(channels: int, width: int, *, stride: Triple, kernel: Triple) -> nn.Sequential:
    return nn.Sequential(
        _conv(channels, width, stride=stride, kernel=kernel),
        nn.InstanceNorm3d(width, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )


def _conv(channels: int, width: int, *, stride: Triple, kernel: Triple) -> nn.Conv3d:
    # The bias would be removed by the instance norm that always follows.
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(channels, width, kernel, stride, padding, bias=False)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""The stages of torchvision's 2D networks, for what needs their maps at every size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from volumetric.errors import ConfigError
from volumetric.models.weights import Weights, adapt_first_layer, load_backbone


@dataclass(frozen=True)
class _Encoder:
    """Where one of torchvision's 2D networks halves its maps.

    Attributes:
        ends: of its stages, as numbers of its layers; each leaves half the sides of the one before.
        widths: channels that come out of each.
    """

    ends: tuple[int, ...]
    widths: tuple[int, ...]


# What follows the last stage, a wide convolution for classifying, is left out.
ENCODERS = {
    "efficientnet_b0": _Encoder((2, 3, 4, 6, 8), (16, 24, 40, 112, 320)),
    "mobilenet_v2": _Encoder((2, 4, 7, 14, 18), (16, 24, 32, 96, 320)),
    "mobilenet_v3_large": _Encoder((2, 4, 7, 13, 16), (16, 24, 40, 112, 160)),
    "mobilenet_v3_small": _Encoder((1, 2, 4, 9, 12), (16, 16, 24, 48, 96)),
    "resnet18": _Encoder((3, 5, 6, 7, 8), (64, 64, 128, 256, 512)),
    "resnet34": _Encoder((3, 5, 6, 7, 8), (64, 64, 128, 256, 512)),
    "resnet50": _Encoder((3, 5, 6, 7, 8), (64, 256, 512, 1024, 2048)),
}


def slice_encoder(
    backbone: str, *, n_stages: int, n_channels: int, weights: Weights = "none"
) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Stages, each from maps (N, C, h, w) to maps of half their sides, and their channels.

    Args:
        backbone: one of `ENCODERS`.
        n_stages: how many are wanted; the first begins with the image.
        n_channels: channels of the image; see `adapt_first_layer`.
        weights: see `load_backbone`.

    Raises:
        ConfigError: an unknown backbone, more stages than it has, no such weights.
        DownloadError, UnreadableFileError, UnsupportedError: see `load_backbone`.
    """
    encoder = ENCODERS.get(backbone)
    if encoder is None or not 1 <= n_stages <= len(encoder.ends):
        raise ConfigError(
            "unknown-network",
            f"{backbone!r} is no 2D encoder of {n_stages} stages",
            f"Use one of {', '.join(ENCODERS)}, with 1 to 5 stages",
        )
    from torchvision.models import get_model

    trunk: nn.Module = get_model(backbone, weights=None)
    load_backbone(trunk, weights, name=backbone)
    adapt_first_layer(trunk, n_channels)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Some count their means for a million steps (momentum .01), and we have a thousand.
            module.momentum = 0.1
    named = getattr(trunk, "features", None)
    layers = list(named) if isinstance(named, nn.Sequential) else list(trunk.children())
    starts = (0, *encoder.ends)
    stages: list[nn.Module] = [
        nn.Sequential(*layers[start:end])
        for start, end, _ in zip(starts, encoder.ends, range(n_stages), strict=False)
    ]
    return stages, encoder.widths[:n_stages]

"""Networks that segment, of MONAI: each a function from plain numbers to MONAI's own module.

They return logits (B, classes, D, H, W) in training as in evaluation: none is supervised at
several depths. `torch.export` (and so ONNX) and `torch.compile` take all four. MONAI takes
seconds to import, which is why each function does it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

Triple = tuple[int, int, int]

_BLOCKS = (1, 2, 2, 4)  # of SegResNet's encoder; deeper stages are like the last
_HEAD = 64  # channels of one of UNETR's attention heads


def attention_unet(
    n_channels: int, n_classes: int, *, features: Sequence[int], strides: Sequence[Triple]
) -> nn.Module:
    """Oktay 2018: a U-Net whose skips are weighted by what comes from below.

    Args:
        n_channels: channels of the image.
        n_classes: classes, background included.
        features: channels of each stage, finest first.
        strides: stride with which each stage is entered; the first is (1, 1, 1). D, H and W must
            be divisible by their product.
    """
    with _quiet():
        from monai.networks.nets.attentionunet import AttentionUnet
    network: nn.Module = AttentionUnet(
        3, n_channels, n_classes, channels=tuple(features), strides=tuple(strides[1:])
    )
    return network


def segresnet(n_channels: int, n_classes: int, *, features: Sequence[int]) -> nn.Module:
    """Myronenko 2018, without its autoencoder: a residual encoder and a light decoder.

    Args:
        n_channels: channels of the image.
        n_classes: classes, background included.
        features: channels of each stage, finest first: a multiple of 8, doubled from stage to
            stage. D, H and W must be divisible by 2 to the power of the stages but one.
    """
    with _quiet():
        from monai.networks.nets.segresnet import SegResNet
    n_stages = len(features)
    network: nn.Module = SegResNet(
        3,
        init_filters=features[0],
        in_channels=n_channels,
        out_channels=n_classes,
        blocks_down=tuple(_BLOCKS[min(stage, 3)] for stage in range(n_stages)),
        blocks_up=(1,) * (n_stages - 1),
    )
    return network


def swin_unetr(n_channels: int, n_classes: int, *, features: Sequence[int]) -> nn.Module:
    """Hatamizadeh 2022: windows of attention that shift, and a convolutional decoder.

    D, H and W must be multiples of 32, and not all 32.

    Args:
        n_channels: channels of the image.
        n_classes: classes, background included.
        features: of which the first counts, a multiple of 12; each of five stages doubles it.
    """
    with _quiet():
        from monai.networks.nets.swin_unetr import SwinUNETR
    network: nn.Module = SwinUNETR(n_channels, n_classes, feature_size=features[0])
    return network


def unetr(
    n_channels: int, n_classes: int, *, features: Sequence[int], patch_size: Triple
) -> nn.Module:
    """Hatamizadeh 2021: a vision transformer over cubes of 16³ voxels, and a decoder.

    Args:
        n_channels: channels of the image.
        n_classes: classes, background included.
        features: channels of the decoder's finest stage, and of the transformer, a multiple of 64.
        patch_size: D, H and W of every image, multiples of 16: where a cube lies is learned.
    """
    with _quiet():
        from monai.networks.nets.unetr import UNETR
    finest, hidden = features
    network: nn.Module = UNETR(
        n_channels,
        n_classes,
        img_size=patch_size,
        feature_size=finest,
        hidden_size=hidden,
        mlp_dim=4 * hidden,
        num_heads=hidden // _HEAD,
    )
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what MONAI's import says of other packages' future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

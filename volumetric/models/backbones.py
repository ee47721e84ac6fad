"""The shelf of 2D networks: torchvision's own, without their classifiers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import ConfigError
from volumetric.models.shift import Branches, insert_shifts
from volumetric.models.weights import Weights, adapt_first_layer, load_backbone

Maps = Literal["pooled", "last", "sixteenth"]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

STATISTICS: Mapping[str, Statistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
}
"""Mean and standard deviation of red, green and blue, from 0 to 1, that weights expect."""


@dataclass(frozen=True)
class Backbone:
    """What is to be known of one of torchvision's 2D networks.

    Attributes:
        head: what is taken off: the linear layer that classifies, and hidden ones before it.
        n_features: numbers a slice that then come out.
        cut: its first stages, which leave about a sixteenth of the slice's sides.
        n_maps: channels that then come out.
        branches: what its residual blocks call the branch that can be shifted; None for none.
        smallest: side in pixels below which torchvision does not run it: slices are enlarged.
        dropped: layers whose weights a file may hold beside the head's: auxiliary classifiers.
    """

    head: str
    n_features: int
    cut: int
    n_maps: int
    branches: Branches | None = None
    smallest: int = 1
    dropped: tuple[str, ...] = ()


# VGG is here with and without batch normalisation. With it, it learns from nothing and torchvision
# has better weights; without, it is what much medical work started from, and needs no statistics
# of batches, which one or two volumes of slices that are all alike do not give.
BACKBONES: Mapping[str, Backbone] = {
    "alexnet": Backbone("classifier", 256, cut=-1, n_maps=256, smallest=63),
    "vgg11": Backbone("classifier", 512, cut=-1, n_maps=512, smallest=32),
    "vgg11_bn": Backbone("classifier", 512, cut=-1, n_maps=512, smallest=32),
    "vgg16": Backbone("classifier", 512, cut=-1, n_maps=512, smallest=32),
    "vgg16_bn": Backbone("classifier", 512, cut=-1, n_maps=512, smallest=32),
    "resnet18": Backbone("fc", 512, cut=7, n_maps=256, branches="conv1"),
    "resnet34": Backbone("fc", 512, cut=7, n_maps=256, branches="conv1"),
    "resnet50": Backbone("fc", 2048, cut=7, n_maps=1024, branches="conv1"),
    "inception_v3": Backbone("fc", 2048, cut=15, n_maps=768, smallest=75, dropped=("AuxLogits",)),
    "googlenet": Backbone("fc", 1024, cut=13, n_maps=832, smallest=15, dropped=("aux1", "aux2")),
    "efficientnet_b0": Backbone("classifier", 1280, cut=6, n_maps=112, branches="block"),
    "efficientnet_v2_s": Backbone(
        "classifier", 1280, cut=6, n_maps=160, branches="block", smallest=33
    ),
    "mobilenet_v2": Backbone("classifier", 1280, cut=14, n_maps=96, branches="conv"),
    "mobilenet_v3_small": Backbone("classifier", 576, cut=9, n_maps=48, branches="block"),
    "mobilenet_v3_large": Backbone("classifier", 960, cut=13, n_maps=112, branches="block"),
    "densenet121": Backbone("classifier", 1024, cut=9, n_maps=1024, smallest=29),
    # The norm before its linear layer is of the features, and stays.
    "convnext_tiny": Backbone(
        "classifier.2", 768, cut=6, n_maps=384, branches="block", smallest=32
    ),
}


def input_statistics(weights: Literal["imagenet", "kinetics"], n_channels: int = 3) -> Statistics:
    """Mean and standard deviation of each channel, from 0 to 1, that input is normalised by.

    Of three channels those of red, green and blue. Of one channel the means of the three, since
    its kernel is the sum of theirs; of other numbers, the three in turn, as their kernels are.
    The same for all backbones: Inception and GoogLeNet, which learnt on values from -1 to 1,
    are built to turn ImageNet's into those themselves.
    """
    mean, std = STATISTICS[weights]
    if n_channels == 1:
        return (sum(mean) / 3,), (sum(std) / 3,)
    return tuple(mean[c % 3] for c in range(n_channels)), tuple(
        std[c % 3] for c in range(n_channels)
    )


def build_trunk(
    name: str,
    *,
    n_channels: int,
    copies: int = 1,
    maps: Maps = "pooled",
    shift: bool = False,
    weights: Weights = "none",
) -> nn.Module:
    """A 2D network that finds features (N, F) or maps (N, F, h, w) in (N, copies * C, H, W).

    Slices below the smallest side that torchvision runs the backbone with are enlarged to it
    by bilinear interpolation, side by side: 63 pixels for AlexNet, 75 for Inception, 33 for
    EfficientNet v2, 32 for VGG and ConvNeXt, 29 for DenseNet, 15 for GoogLeNet, 1 for the rest.

    Args:
        name: one of `BACKBONES`.
        n_channels: C, channels of a slice; see `adapt_first_layer`.
        copies: slices that are seen together, each with its channels.
        maps: features after the backbone's own average over the slice (also of AlexNet and VGG,
            as in MRNet, Bien 2018, in place of their fixed grid); or its last maps; or those that
            are a sixteenth of the slice's sides, as far as its padding allows.
        shift: let neighbouring slices exchange channels in every residual branch.
        weights: see `load_backbone`; none starts as torchvision does.

    Raises:
        ConfigError: an unknown backbone, one without residual branches to shift, no channel, no
            such weights.
        DownloadError, UnreadableFileError, UnsupportedError: see `load_backbone`.
    """
    known = BACKBONES.get(name)
    if known is None:
        raise ConfigError(
            "unknown-network",
            f"{name!r} is no 2D backbone",
            f"Use one of {', '.join(BACKBONES)}",
        )
    trunk = _without_head(name, known)
    dropped = tuple(f"{layer}." for layer in (known.head, *known.dropped))
    load_backbone(trunk, weights, name=name, dropped=dropped)
    adapt_first_layer(trunk, copies * n_channels)
    if shift and known.branches is None:
        raise ConfigError(
            "no-shift", f"{name} has no residual branches to shift", "Use a ResNet, or no shift"
        )
    if shift and known.branches is not None:
        insert_shifts(trunk, known.branches)
    if maps != "pooled":
        stages = _stages(trunk)
        trunk = stages if maps == "last" else stages[: known.cut]
    if known.smallest == 1:
        return trunk
    entry = _Entry(known.smallest, rescale=_rescaling(name, n_channels, copies))
    return nn.Sequential(OrderedDict(entry=entry, network=trunk))


class _Entry(nn.Module):
    """Slices as a backbone wants them: no side below `smallest`, channels times a, plus b."""

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, smallest: int, *, rescale: tuple[Sequence[float], Sequence[float]] | None):
        super().__init__()
        self.smallest = smallest
        self.rescales = rescale is not None
        scale, offset = rescale or ((), ())
        for name, numbers in (("scale", scale), ("offset", offset)):
            values = torch.tensor(numbers).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        if self.rescales:
            slices = slices * self.scale.to(slices.dtype) + self.offset.to(slices.dtype)
        height, width = slices.shape[2:]
        if min(height, width) >= self.smallest:
            return slices
        # Side by side: to keep the aspect, a strip of one pixel would become a giant.
        size = (max(height, self.smallest), max(width, self.smallest))
        return F.interpolate(slices, size=size, mode="bilinear")


def _rescaling(
    name: str, n_channels: int, copies: int
) -> tuple[Sequence[float], Sequence[float]] | None:
    """What turns input normalised as `input_statistics` says into values from -1 to 1.

    torchvision does so where it loads weights itself, and only there: a network that is built
    again without them would not. So it is always done.
    """
    if name not in ("inception_v3", "googlenet"):
        return None
    mean, std = input_statistics("imagenet", n_channels)
    scale, offset = [s / 0.5 for s in std], [(m - 0.5) / 0.5 for m in mean]
    return copies * scale, copies * offset


def _without_head(name: str, known: Backbone) -> nn.Module:
    """Torchvision's network with random weights, its classifier replaced by nothing."""
    from torchvision.models import get_model

    trunk: nn.Module
    if name.startswith(("alexnet", "vgg")):
        # Up to nine tenths of their numbers lie in the classifier: they are never made.
        target = torch.get_default_device()
        with torch.device("meta"):
            trunk = get_model(name, weights=None)
        trunk.set_submodule(known.head, nn.Identity())
        trunk.set_submodule("avgpool", nn.AdaptiveAvgPool2d(1))
        trunk = trunk.to_empty(device=target)
        _start_plain(trunk)
        return trunk
    choices = {"aux_logits": False, "init_weights": True} if known.dropped else {}
    trunk = get_model(name, weights=None, **choices)
    trunk.set_submodule(known.head, nn.Identity())
    if known.dropped:
        trunk.set_submodule("dropout", nn.Identity())  # the classifier's, which has its own here
    return trunk


def _start_plain(trunk: nn.Module) -> None:
    """Begin as torchvision's VGG does (He 2015), which suits AlexNet too."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(torch.Tensor, module.bias))
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def _stages(trunk: nn.Module) -> nn.Sequential:
    """The trunk without what makes one number of each of its maps."""
    stages = getattr(trunk, "features", None)
    if not isinstance(stages, nn.Sequential):
        after = ("avgpool", "dropout", "fc")
        children = [child for child in trunk.named_children() if child[0] not in after]
        return nn.Sequential(OrderedDict(children))
    if "norm5" in stages._modules:  # DenseNet's last activation is in no layer
        return nn.Sequential(OrderedDict([*stages.named_children(), ("relu5", nn.ReLU())]))
    return stages

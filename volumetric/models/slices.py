"""A 2D network on every slice or frame, and one answer for the whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import ConfigError
from volumetric.models.heads import Aggregate, SliceHead
from volumetric.models.weights import Weights, adapt_first_layer, load_backbone


@dataclass(frozen=True)
class _Shelf:
    """What is to be known of one of torchvision's 2D networks.

    Attributes:
        head: its last child, which is taken off.
        n_features: numbers a slice that then come out.
        branches: where its residual blocks keep the branch that is shifted in time.
        cut: its first stages, which leave a sixteenth of the frame's sides.
        n_maps: channels that then come out.
    """

    head: str
    n_features: int
    branches: Literal["conv", "block", "conv1"]
    cut: int
    n_maps: int


BACKBONES = {
    "mobilenet_v2": _Shelf("classifier", 1280, "conv", cut=14, n_maps=96),
    "mobilenet_v3_small": _Shelf("classifier", 576, "block", cut=9, n_maps=48),
    "resnet18": _Shelf("fc", 512, "conv1", cut=7, n_maps=256),
}


class SliceNetwork(nn.Module):
    """Logits (B, n_classes) from images (B, C, D, H, W), whose slices go through one 2D network.

    In evaluation `chunk` slices at a time go through, so that memory does not grow with D; where
    slices are shifted along D their neighbours are needed, and whole images go through, as many
    as have `chunk` slices between them, but at least one. Training needs all slices at once.

    Args:
        trunk: 2D network from (N, C / streams, H, W) to features (N, F), or maps (N, F, h, w).
        heads: each from what `look` finds to logits, which are averaged.
        streams: equal parts of the channels that go through the trunk one by one, such as frames
            and their changes; what it finds in them is put side by side.
        chunk: slices at a time in evaluation; None for all.
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: Sequence[SliceHead],
        *,
        streams: int = 1,
        chunk: int | None = None,
    ):
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ConfigError("bad-chunk", f"a chunk of {chunk} slices", "Give at least 1, or None")
        self.streams = streams
        self.chunk = chunk
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits: see the class."""
        return self.weigh_slices(images)[0]

    def weigh_slices(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, n_classes), and what each slice counted for (B, D): see `SliceHead.weigh`."""
        found = self.look(images)
        answers = [cast(SliceHead, head).weigh(found) for head in self.heads]
        logits, counted = zip(*answers, strict=True)
        return torch.stack(logits).mean(0), torch.stack(counted).mean(0)

    def look(self, images: torch.Tensor) -> torch.Tensor:
        """What the trunk finds in images (B, C, D, H, W): (B, streams * F, D, h, w).

        h and w are 1 where the heads take one number a feature and slice.
        """
        batch, channels, depth, *frame = images.shape
        shifts = [module for module in self.trunk.modules() if isinstance(module, _Shifted)]
        for module in shifts:
            module.depth = depth
        clips = images.reshape(batch * self.streams, channels // self.streams, depth, *frame)
        slices = clips.transpose(1, 2).flatten(0, 1)
        if self.training or self.chunk is None:
            parts = [self._find(slices)]
        else:
            at_once = max(1, self.chunk // depth) * depth if shifts else self.chunk
            parts = [
                self._find(slices[start : start + at_once])
                for start in range(0, len(slices), at_once)
            ]
        found = torch.cat(parts)
        found = found.reshape(batch, self.streams, depth, *found.shape[1:])
        return found.transpose(2, 3).flatten(1, 2)

    def _find(self, slices: torch.Tensor) -> torch.Tensor:
        """Features (N, F, h, w) of slices (N, C, H, W)."""
        # Depthwise convolutions take half the time with channels last.
        found: torch.Tensor = self.trunk(slices.contiguous(memory_format=torch.channels_last))
        if found.ndim == 2:
            return found[..., None, None]
        if self.heads[0].aggregate == "mean_max":
            found = torch.cat(
                [found.mean((2, 3), keepdim=True), found.amax((2, 3), keepdim=True)], 1
            )
        return found


class _Shifted(nn.Module):
    """A branch that sees an eighth of its channels from the slice before, and one from after.

    The temporal shift module (Lin 2019), which learns motion at no cost; zeros come in at the
    ends. A slice alone has no neighbours and is left as it is, which makes the network of one
    slice the 2D network it is made of.
    """

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch = branch
        self.depth = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.branch(shift_slices(x, depth=self.depth))
        return result


def shift_slices(x: torch.Tensor, *, depth: int) -> torch.Tensor:
    """Features (B·D, C, H, W): the first C/8 channels from slice d+1, the next C/8 from d-1."""
    if depth == 1:
        return x
    slices = x.reshape(-1, depth, *x.shape[1:])
    fold = x.shape[1] // 8
    ahead = F.pad(slices[:, 1:, :fold], (0, 0) * 3 + (0, 1))
    behind = F.pad(slices[:, :-1, fold : 2 * fold], (0, 0) * 3 + (1, 0))
    return torch.cat([ahead, behind, slices[:, :, 2 * fold :]], 2).flatten(0, 1)


def slice_network(  # noqa: PLR0913 - every one is a choice of the user's, and a value
    backbone: str,
    *,
    n_channels: int = 3,
    n_classes: int,
    aggregate: Aggregate = "mean",
    shift: bool = False,
    streams: int = 1,
    members: int = 1,
    chunk: int | None = 32,
    weights: Weights = "none",
) -> SliceNetwork:
    """A network that answers for (B, n_channels, D, H, W) from a 2D backbone a slice at a time.

    Args:
        backbone: one of `BACKBONES`; its own classifier is taken off.
        n_channels: channels of the images, all streams together; see `adapt_first_layer`.
        n_classes: numbers returned for each image.
        aggregate: see `SliceHead`.
        shift: let neighbouring slices exchange channels in every residual branch (TSM).
        streams: see `SliceNetwork`.
        members: heads, each with weights of its own.
        chunk: slices at a time in evaluation; None for all.
        weights: see `load_backbone`.

    Raises:
        ConfigError: an unknown backbone or aggregate, no channel or chunk, no such weights.
        DownloadError, UnreadableFileError, UnsupportedError: see `load_backbone`.
    """
    shelf = BACKBONES.get(backbone)
    if shelf is None:
        raise ConfigError(
            "unknown-network",
            f"{backbone!r} is no 2D backbone",
            f"Use one of {', '.join(BACKBONES)}",
        )
    from torchvision.models import get_model

    trunk: nn.Module = get_model(backbone, weights=None)
    load_backbone(trunk, weights, name=backbone)
    setattr(trunk, shelf.head, nn.Identity())
    adapt_first_layer(trunk, n_channels // streams)
    if shift:
        _insert_shifts(trunk, shelf.branches)
    n_features = shelf.n_features
    if aggregate == "conv3d":
        trunk, n_features = _stages(trunk)[: shelf.cut], shelf.n_maps
    elif aggregate == "mean_max":
        trunk, n_features = _stages(trunk), 2 * n_features
    heads = [
        SliceHead(streams * n_features, n_classes, aggregate=aggregate) for _ in range(members)
    ]
    return SliceNetwork(trunk, heads, streams=streams, chunk=chunk)


def _stages(trunk: nn.Module) -> nn.Sequential:
    """The trunk without what makes one number of each of its maps."""
    stages = getattr(trunk, "features", None)
    if isinstance(stages, nn.Sequential):
        return stages
    return nn.Sequential(OrderedDict(list(trunk.named_children())[:-2]))


def _insert_shifts(trunk: nn.Module, branches: Literal["conv", "block", "conv1"]) -> None:
    """Shift what enters the residual branches of the trunk, which is changed."""
    for block in list(trunk.modules()):
        branch = block._modules.get(branches)
        if branches == "conv1":
            # The stem of a ResNet is called conv1 too, and is no branch of a block.
            if branch is not None and block is not trunk:
                block._modules["conv1"] = _Shifted(branch)
        elif branch is not None and getattr(block, "use_res_connect", False):
            block._modules[branches] = _Shifted(branch)

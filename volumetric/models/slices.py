"""A 2D network on every slice or frame, and one answer for the whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as run_twice

from volumetric.errors import ConfigError
from volumetric.models.backbones import BACKBONES, Maps, build_trunk
from volumetric.models.heads import SliceHead, mark_present
from volumetric.models.norms import count_nothing
from volumetric.models.shift import Shifted
from volumetric.models.weights import Weights
from volumetric.network_names import Aggregate

Planes = Literal[1, 3]


class SliceNetwork(nn.Module):
    """Logits (B, n_classes) from images (B, C, D, H, W), whose slices go through one 2D network.

    In evaluation `chunk` slices at a time go through, so that memory does not grow with D; where
    slices are shifted along D their neighbours are needed, and whole images go through, as many
    as have `chunk` slices between them, but at least one. Training needs all slices at once,
    unless activations are computed twice: then they go through in chunks there too, and batch
    norm takes its statistics of a chunk, or none where `freeze_norm` has kept it from that.

    Args:
        trunk: 2D network from (N, C / streams · (2 · neighbours + 1), H, W) to features (N, F),
            or maps (N, F, h, w).
        heads: each from what `look` finds to logits, which are averaged; with three planes a
            third of them for each.
        streams: equal parts of the channels that go through the trunk one by one, such as frames
            and their changes; what it finds in them is put side by side.
        planes: 3 for slices along D, along H and along W: the trunk is the same for all, heads
            are not, and answers are averaged.
        neighbours: slices before and after each that the trunk sees with it, as channels, the
            slice before first; those beyond an end are the last one again.
        chunk: slices at a time in evaluation; None for all.
        checkpoint: keep of the trunk's activations nothing in training but what goes in and comes
            out of each chunk, and compute them again for the backward pass.

    Raises:
        ConfigError: numbers that make no sense.
    """

    def __init__(  # noqa: PLR0913 - every one is a value
        self,
        trunk: nn.Module,
        heads: Sequence[SliceHead],
        *,
        streams: int = 1,
        planes: Planes = 1,
        neighbours: int = 0,
        chunk: int | None = None,
        checkpoint: bool = False,
    ):
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ConfigError("bad-chunk", f"a chunk of {chunk} slices", "Give at least 1, or None")
        if neighbours < 0:
            raise ConfigError("bad-neighbours", f"{neighbours} neighbours", "Give 0 or more")
        if planes not in get_args(Planes) or len(heads) % planes:
            raise ConfigError(
                "bad-planes", f"{planes} planes, {len(heads)} heads", "Use 1, or 3 with heads each"
            )
        self.streams = streams
        self.planes = planes
        self.neighbours = neighbours
        self.chunk = chunk
        self.checkpoint = checkpoint
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)

    def forward(self, images: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Logits: see `weigh_slices`."""
        return self.weigh_slices(images, lengths)[0]

    def weigh_slices(
        self, images: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, n_classes), and what each slice counted for (B, D): see `SliceHead.weigh`.

        With three planes (B, D + H + W), one after the other, adding up to 1 too. `lengths` (B,)
        says how many slices each image has, where images of other depths are padded to D: what
        lies beyond is not looked at. With three planes each image then goes through alone.

        Raises:
            GeometryError: lengths that are not from 1 to D, or not one an image.
        """
        if self.planes == 3 and lengths is not None:
            return self._weigh_alone(images, lengths)
        answers, counts = [], []
        for axis in range(self.planes):
            found = self.look(images.movedim(2 + axis, 2), lengths)
            heads = self._heads_of(axis)
            logits, counted = zip(*(head.weigh(found, lengths) for head in heads), strict=True)
            answers.append(torch.stack(logits).mean(0))
            counts.append(torch.stack(counted).mean(0))
        return torch.stack(answers).mean(0), torch.cat(counts, 1) / self.planes

    def plane(self, axis: int) -> SliceNetwork:
        """What one of three planes answers: a network of the same weights, of slices along D.

        Its images are this network's with that axis (0 D, 1 H, 2 W) first: `movedim(2 + axis, 2)`.
        """
        return SliceNetwork(
            self.trunk,
            self._heads_of(axis),
            streams=self.streams,
            neighbours=self.neighbours,
            chunk=self.chunk,
            checkpoint=self.checkpoint,
        )

    def look(self, images: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """What the trunk finds in images (B, C, D, H, W): (B, streams * F, D, h, w).

        h and w are 1 where the heads take one number a feature and slice. Beyond an image's
        `lengths` nothing is found, which is written as 0.
        """
        batch, channels, depth, *frame = images.shape
        present = None if lengths is None else mark_present(lengths, images)
        clips = images.reshape(batch * self.streams, channels // self.streams, depth, *frame)
        slices = clips.transpose(1, 2).flatten(0, 1)
        if present is None:
            found = self._look(_stack(slices, depth))
        else:
            there = present.repeat_interleave(self.streams, 0)
            seen = self._look(_stack(slices, depth, there))
            found = seen.new_zeros(slices.shape[0], *seen.shape[1:])
            found[there.flatten()] = seen
        found = found.reshape(batch, self.streams, depth, *found.shape[1:])
        return found.transpose(2, 3).flatten(1, 2)

    def _heads_of(self, axis: int) -> Sequence[SliceHead]:
        n = len(self.heads) // self.planes
        return cast(Sequence[SliceHead], self.heads[axis * n : (axis + 1) * n])

    def _weigh_alone(
        self, images: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `weigh_slices`, an image at a time: padding lies within the other planes' slices."""
        mark_present(lengths, images)
        answers, counts = [], []
        for image, n in zip(images, lengths.tolist(), strict=True):
            logits, counted = self.weigh_slices(image[None, :, :n])
            padding = counted.new_zeros(1, images.shape[2] - n)
            answers.append(logits)
            counts.append(torch.cat([counted[:, :n], padding, counted[:, n:]], 1))
        return torch.cat(answers), torch.cat(counts)

    def _look(self, stack: _Stack) -> torch.Tensor:
        """Features (N, F, h, w) of a stack, a part at a time where that is asked for."""
        see = self._see
        if self.training and self.checkpoint:
            again = partial(_contexts, self.trunk)
            see = partial(run_twice, self._see, use_reentrant=False, context_fn=again)
        elif self.training or self.chunk is None:
            return self._see(stack, slice(None))
        return torch.cat([see(stack, slice(*part)) for part in pairwise(self._bounds(stack))])

    def _bounds(self, stack: _Stack) -> list[int]:
        """Where parts of `chunk` slices begin, and where the last one ends."""
        n = stack.slices.shape[0]
        chunk = self.chunk or n
        if any(isinstance(module, Shifted) for module in self.trunk.modules()):
            starts = [*(stack.before == 0).nonzero().flatten().tolist(), n]
        else:
            # As even as can be: batch norm in training does not take a last slice alone.
            chunk = -(-n // -(-n // chunk))
            starts = list(range(n + 1))
        bounds = [0]
        for start, end in pairwise(starts):
            if end - bounds[-1] > chunk and start > bounds[-1]:
                bounds.append(start)
        return [*bounds, n]

    def _see(self, stack: _Stack, part: slice) -> torch.Tensor:
        """Features (n, F, h, w) of a part of a stack."""
        before, after = stack.before[part], stack.after[part]
        slices = stack.slices[part]
        if self.neighbours:
            steps = torch.arange(-self.neighbours, self.neighbours + 1, device=before.device)
            steps = steps.clamp(-before[:, None], after[:, None])
            own = torch.arange(stack.slices.shape[0], device=before.device)[part]
            slices = stack.slices[own[:, None] + steps].flatten(1, 2)
        for module in self.trunk.modules():
            if isinstance(module, Shifted):
                module.layout = before == 0 if stack.depth is None else stack.depth
        # Depthwise convolutions take half the time with channels last.
        found: torch.Tensor = self.trunk(slices.contiguous(memory_format=torch.channels_last))
        if found.ndim == 2:
            return found[..., None, None]
        if cast(SliceHead, self.heads[0]).aggregate == "mean_max":
            found = torch.cat(
                [found.mean((2, 3), keepdim=True), found.amax((2, 3), keepdim=True)], 1
            )
        return found


@dataclass(frozen=True)
class _Stack:
    """Slices of several images, one after the other.

    Attributes:
        slices: (N, C, H, W).
        before: slices of the same image that come before each, (N,).
        after: that come after.
        depth: slices of every image, if all have as many.
    """

    slices: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    depth: int | None


def _stack(slices: torch.Tensor, depth: int, present: torch.Tensor | None = None) -> _Stack:
    """Those slices (B * D, C, H, W) of images of D slices that are `present`, (B, D)."""
    before = torch.arange(depth, device=slices.device).repeat(slices.shape[0] // depth)
    if present is None:
        return _Stack(slices, before, depth - 1 - before, depth)
    after = present.sum(1).repeat_interleave(depth) - 1 - before
    there = present.flatten()
    return _Stack(slices[there], before[there], after[there], None)


def _contexts(
    trunk: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the first pass through a trunk, and the second."""
    return nullcontext(), count_nothing(trunk)


def slice_network(  # noqa: PLR0913 - every one is a choice of the user's, and a value
    backbone: str,
    *,
    n_channels: int = 3,
    n_classes: int,
    aggregate: Aggregate = "mean",
    shift: bool = False,
    streams: int = 1,
    planes: Planes = 1,
    neighbours: int = 0,
    members: int = 1,
    chunk: int | None = 32,
    checkpoint: bool = False,
    weights: Weights = "none",
) -> SliceNetwork:
    """A network that answers for (B, n_channels, D, H, W) from a 2D backbone a slice at a time.

    Slices may have any size, `build_trunk` says which are enlarged; `input_statistics` says what
    the input is normalised by.

    Args:
        backbone: one of `BACKBONES`; its own classifier is taken off.
        n_channels: channels of the images, all streams together; see `adapt_first_layer`.
        n_classes: numbers returned for each image.
        aggregate: see `SliceHead`.
        shift: let neighbouring slices exchange channels in every residual branch (TSM).
        streams: see `SliceNetwork`.
        planes: see `SliceNetwork`.
        neighbours: see `SliceNetwork`.
        members: heads of each plane, each with weights of its own.
        chunk: slices at a time in evaluation; None for all.
        checkpoint: see `SliceNetwork`.
        weights: see `load_backbone`.

    Raises:
        ConfigError: an unknown backbone or aggregate, no channel or chunk, no such weights,
            a shift of a backbone without residual branches, impossible numbers.
        DownloadError, UnreadableFileError, UnsupportedError: see `load_backbone`.
    """
    maps: Maps = "pooled"
    if aggregate == "conv3d":
        maps = "sixteenth"
    elif aggregate == "mean_max":
        maps = "last"
    trunk = build_trunk(
        backbone,
        n_channels=n_channels // streams,
        copies=2 * neighbours + 1,
        maps=maps,
        shift=shift,
        weights=weights,
    )
    known = BACKBONES[backbone]
    n_features = {
        "pooled": known.n_features,
        "last": 2 * known.n_features,
        "sixteenth": known.n_maps,
    }[maps]
    heads = [
        SliceHead(streams * n_features, n_classes, aggregate=aggregate)
        for _ in range(planes * members)
    ]
    return SliceNetwork(
        trunk,
        heads,
        streams=streams,
        planes=planes,
        neighbours=neighbours,
        chunk=chunk,
        checkpoint=checkpoint,
    )

"""Explanations: which part of an image spoke for a class, and which of its slices counted.

Gradient-weighted class activation maps (Grad-CAM: Selvaraju et al., ICCV 2017) of any classifier
over (B, C, D, H, W). Such a map shows what a network looked at, not whether that was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from volumetric.errors import GeometryError
from volumetric.explanation.layers import Centres
from volumetric.explanation.passing import evaluating
from volumetric.explanation.runs import Answer, ask, weigh
from volumetric.models.slices import SliceNetwork
from volumetric.preprocess import resample_like
from volumetric.volume import Volume

SlicesBy = Literal["attention", "gradient", "map"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What spoke for a class in one image, on the grid that the network was given.

    Attributes:
        map: float32 (D, H, W), from 0 to 1: how much each voxel's surroundings spoke for the
            class, divided by `largest`. All zero where nothing did, and `reason` says why.
        largest: of the map before it was divided, in the unit of the class's logit.
        class_index: the class.
        slice_weights: float32 (D,), what each slice counted for, adding up to 1; None where no
            slice counted. Of three planes: among slices along D.
        slices_by: what they are: "attention", which is the same for every class; "gradient", the
            share of |gradient x feature|; "map", the share of the map.
        layer: where in the network the map was made, by the module's name.
        grid: voxels along (D, H, W) there: what is closer than these is not told apart. Of three
            planes: of slices along D.
        reason: why the map is zero; None if it is not.
    """

    map: torch.Tensor
    largest: float
    class_index: int
    slice_weights: torch.Tensor | None
    slices_by: SlicesBy
    layer: str
    grid: tuple[int, int, int]
    reason: str | None = None


def explain(
    network: nn.Module,
    image: torch.Tensor,
    *,
    target: int | None = None,
    layer: nn.Module | None = None,
) -> Explanation:
    """What in an image spoke for a class, by the network that is asked for it.

    The map is made at the last layer that has at least 4 voxels along each axis, or as many as
    the axis has: deeper ones would not say where. Of a network over slices each slice has its own
    weights there, with the gradient through the aggregation, so that a slice that did not count
    gets little. Of three planes the maps are averaged, as their answers are. The network answers
    twice, in evaluation mode, and is left as it was; no
    gradients are kept before that layer, and of a `SliceNetwork` for one chunk of slices at a
    time.

    Args:
        network: logits (1, n_classes) from (1, C, D, H, W).
        image: (C, D, H, W), as the network takes it, on its device.
        target: the class; the likeliest if not given.
        layer: a module of the network, to make the map of what comes out of it.

    Raises:
        ConfigError: no such class, or a layer that is not the network's.
        GeometryError: the image is not (C, D, H, W).
        IntensityError: the network's answer is not finite.
        UnsupportedError: the answer is no logits (1, n_classes), or no layer has voxels.
    """
    if image.ndim != 4:
        raise GeometryError(
            "bad-shape",
            f"an image has four axes (C, D, H, W), not {tuple(image.shape)}",
            "Give one image at a time",
        )
    if isinstance(network, SliceNetwork) and network.planes == 3:
        return _explain_planes(network, image, target=target, layer=layer)
    with evaluating(network), torch.inference_mode(False), torch.no_grad():
        batch = image.detach().clone()[None]
        answer = ask(network, batch, target=target, layer=layer)
        chosen, signed, reached = weigh(network, batch, answer)
    coarse, centres = _on_three_axes(network, signed, chosen.centres)
    spread = _spread(coarse.clamp_min(0), centres, image.shape[1:])
    largest = float(spread.max())
    scaled = spread / largest if largest > 0 else spread
    weights, slices_by = _weigh_slices(network, answer, scaled)
    depth, height, width = coarse.shape
    return Explanation(
        map=scaled.cpu(),
        largest=largest,
        class_index=answer.class_index,
        slice_weights=weights,
        slices_by=slices_by,
        layer=chosen.name,
        grid=(depth, height, width),
        reason=_why_empty(largest, reached, chosen.name),
    )


def _explain_planes(
    network: SliceNetwork, image: torch.Tensor, *, target: int | None, layer: nn.Module | None
) -> Explanation:
    """Of three planes, whose answers are averaged: each is asked for itself, of one class."""
    if target is None:
        with evaluating(network), torch.no_grad():
            target = int(network(image[None])[0].argmax())
    found = [
        explain(network.plane(axis), image.movedim(1 + axis, 1), target=target, layer=layer)
        for axis in range(3)
    ]
    maps = [(one.map * one.largest).movedim(0, axis) for axis, one in enumerate(found)]
    mean = torch.stack(maps).mean(0)
    largest = float(mean.max())
    return replace(
        found[0],
        map=mean / largest if largest > 0 else mean,
        largest=largest,
        reason=found[0].reason if largest == 0 else None,
    )


def place_map(explanation: Explanation, seen: Volume, *, grid: Volume) -> Volume:
    """The map on the grid of another volume: float32 (1, D, H, W) from 0 to 1.

    `seen` is the volume the network was given, whose affine says where the map lies; `grid` may
    be the scan as it was read. Beyond what the network saw the map is 0.

    Raises:
        GeometryError: the map was not made of `seen`.
    """
    own = Volume(seen.with_data(explanation.map[None]).data, seen.affine, seen.kind)
    placed = resample_like(own, grid)
    # Cubic interpolation swings over.
    return placed.with_data(placed.data.to(torch.float32).clamp(0, 1))


def _on_three_axes(
    network: nn.Module, signed: torch.Tensor, centres: tuple[Centres, ...]
) -> tuple[torch.Tensor, tuple[Centres, ...]]:
    """What was found as (D, h, w), slices put behind each other, and where its voxels lie."""
    if not isinstance(network, SliceNetwork):
        return signed[0], centres
    streams = signed.reshape(network.streams, -1, *signed.shape[1:])
    return streams.sum(0), ((0.0, 1.0), *centres)


def _why_empty(largest: float, reached: bool, name: str) -> str | None:
    if not reached:
        return f"the class does not depend on what the network finds at {name}"
    if largest == 0:
        return f"all that the network finds at {name} speaks against the class"
    return None


def _weigh_slices(
    network: nn.Module, answer: Answer, scaled: torch.Tensor
) -> tuple[torch.Tensor | None, SlicesBy]:
    slices_by: SlicesBy
    if answer.attention is not None:
        share, slices_by = answer.attention, "attention"
    elif isinstance(network, SliceNetwork):
        products = [
            (output.detach() * gradient).flatten(1).sum(1)
            for output, gradient in zip(answer.outputs, answer.gradients, strict=True)
        ]
        share = torch.cat(products).reshape(network.streams, -1).abs().sum(0)
        slices_by = "gradient"
    else:
        share, slices_by = scaled.sum((1, 2)), "map"
    share = share.to("cpu", torch.float32)
    total = share.sum()
    return (share / total if total > 0 else None), slices_by


def _spread(coarse: torch.Tensor, centres: Sequence[Centres], shape: Sequence[int]) -> torch.Tensor:
    """Linear values on the grid of the input, of voxels whose centres lie there as given."""
    result = coarse
    for axis, ((first, step), size) in enumerate(zip(centres, shape, strict=True)):
        n_old = coarse.shape[axis]
        position = (torch.arange(size, dtype=torch.float64) - first) / step
        distance = (position.clamp(0, n_old - 1)[:, None] - torch.arange(n_old)).abs()
        weights = (1 - distance).clamp_min(0).to(result)
        result = torch.tensordot(result, weights, dims=([axis], [1])).movedim(-1, axis)
    return result

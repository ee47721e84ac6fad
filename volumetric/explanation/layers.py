"""The layers of a network whose voxels have a place in its input, found by watching it run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from volumetric.explanation.passing import Passing, Shape

Layout = Literal["first", "last", "tokens"]
# Of one axis: where the first voxel's centre lies, and the step to the next, in input voxels.
Centres = tuple[float, float]

_LEAST = 4  # voxels along an axis: fewer do not say where
_STRIDED = (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)


@dataclass(frozen=True, eq=False)
class Layer:
    """A tensor on the way through a network, every voxel of which has a place in its input.

    Attributes:
        number: of the passing at which it is met.
        name: of the outermost module that gives it out.
        modules: all that do.
        source: see `Passing`.
        layout: "first" (B, F, d, h, w), "last" (B, d, h, w, F), or "tokens" (B, n, F), of which
            the last d·h·w are voxels.
        extents: voxels along each axis.
        centres: where they lie, along each axis.
    """

    number: int
    name: str
    modules: tuple[nn.Module, ...]
    source: tuple[object, int] | None
    layout: Layout
    extents: Shape
    centres: tuple[Centres, ...]

    def arrange(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor as float32 (B, F, *extents)."""
        tensor = tensor.to(torch.float32)
        if self.layout == "first":
            return tensor
        if self.layout == "last":
            return tensor.movedim(-1, 1)
        voxels = tensor[:, -math.prod(self.extents) :].transpose(1, 2)
        return voxels.reshape(len(tensor), -1, *self.extents)


def find_layers(passings: Sequence[Passing], given: Shape) -> list[Layer]:
    """The layers among all that passed a network which was given (B, C, *extents), in order."""
    known = _follow_centres(passings, given)
    layers: dict[int, Layer] = {}
    for passing in passings:
        found = _locate(passing, given)
        if found is None or math.prod(found[1]) == 1:
            continue
        layout, extents = found
        centres = tuple(
            known.get((axis, size), _share_centres(given[2 + axis], size))
            for axis, size in enumerate(extents)
        )
        number, name, source = passing.number, passing.name, passing.source
        fresh = Layer(number, name, (), source, layout, extents, centres)
        layer = layers.setdefault(passing.first, fresh)
        if passing.taken is not None:
            modules = (*layer.modules, passing.module)
            layers[passing.first] = replace(layer, name=name, modules=modules)
    return list(layers.values())


def finest_layers(layers: Sequence[Layer], given: Shape) -> list[Layer]:
    """Those with at least 4 voxels along each axis, or all that the axis has, in order.

    Where there are none, those that come nearest to it.
    """
    wanted = [min(_LEAST, size) for size in given[2:]]

    def fineness(layer: Layer) -> float:
        return min(min(1.0, n / least) for n, least in zip(layer.extents, wanted, strict=True))

    best = max(map(fineness, layers), default=0.0)
    return [layer for layer in layers if fineness(layer) == best]


def find_bottlenecks(output: torch.Tensor, start: object) -> set[tuple[object, int]]:
    """The sources of all tensors that everything passes through on its way behind a first step.

    What runs beside a shortcut is none of them: it is not all that the network found. `output`
    was made with gradients, which need not have been kept: their graph alone is read.
    """
    order = _sort_steps(output.grad_fn, start)
    places = {step: number for number, (step, _) in enumerate(order)}
    used: dict[object, set[int]] = {output.grad_fn: {output.output_nr}}
    found: set[tuple[object, int]] = set()
    furthest = 0
    for number, (step, made_of) in enumerate(order):
        # Each step comes before all that it is made of: it is a bottleneck if no connection from
        # one before it leads past it, and if it has one result only that is used.
        if furthest <= number and len(used[step]) == 1 and step is not start:
            found.add((step, next(iter(used[step]))))
        for one, result in made_of:
            used.setdefault(one, set()).add(result)
            furthest = max(furthest, places[one])
    return found


def _sort_steps(last: Any, start: object) -> list[tuple[object, list[tuple[object, int]]]]:
    """The steps from `start` to `last`, last ones first, and of which results each is made."""
    made_of: dict[object, list[tuple[object, int]]] = {start: []}
    order = [start]
    seen = {start}
    stack = [(last, False)]
    while stack:
        step, is_done = stack.pop()
        if is_done:
            sources = [(one, result) for one, result in step.next_functions if one in made_of]
            if sources:
                made_of[step] = sources
                order.append(step)
        elif step is not None and step not in seen:
            seen.add(step)
            stack.append((step, True))
            stack += [(one, False) for one, _ in step.next_functions]
    return [(step, made_of[step]) for step in reversed(order)]


def _locate(passing: Passing, given: Shape) -> tuple[Layout, Shape] | None:
    """How a tensor keeps places in what was given, and how many along each axis."""
    shape, full = passing.shape, given[2:]
    if len(shape) < 3 or shape[0] != given[0]:
        return None
    orders: tuple[tuple[Layout, Shape], ...] = (("first", shape[2:]), ("last", shape[1:-1]))
    for layout, extents in orders if len(shape) == len(given) else ():
        if all(size <= most for size, most in zip(extents, full, strict=True)):
            return layout, extents
    # Transformers that flatten their voxels hand on how many there are along each axis, and have
    # a token for the class in front of them, or none.
    for counts in passing.beside if len(shape) == 3 else ():
        if (
            isinstance(counts, tuple | list)
            and len(counts) == len(full)
            and all(isinstance(n, int) for n in counts)
            and shape[1] - math.prod(counts) in (0, 1)
        ):
            return "tokens", tuple(counts)
    return None


def _follow_centres(passings: Sequence[Passing], given: Shape) -> Mapping[tuple[int, int], Centres]:
    """Where voxels lie by axis and extent, from the numbers of convolutions and poolings.

    All that has one extent along an axis is taken to lie alike, as what is added together does.
    """
    known: dict[tuple[int, int], Centres] = dict.fromkeys(enumerate(given[2:]), (0.0, 1.0))
    for passing in passings:
        if passing.taken is None or not isinstance(passing.module, _STRIDED):
            continue
        pairs = zip(passing.taken[2:], passing.shape[2:], strict=True)
        for axis, (before, behind) in enumerate(pairs):
            if (axis, before) in known and (axis, behind) not in known:
                first, step = known[axis, before]
                offset, stride = _offset(passing.module, axis)
                known[axis, behind] = first + step * offset, step * stride
    return known


def _share_centres(full: int, size: int) -> Centres:
    """Of voxels that share an axis evenly."""
    return (full / size - 1) / 2, full / size


def _offset(module: nn.Module, axis: int) -> tuple[float, int]:
    """Along an axis, in voxels that go in: where the first that comes out lies, and the step."""
    values = vars(module)

    def own(name: str) -> Any:
        value = values.get(name, 1)
        return value[axis] if isinstance(value, tuple) else value

    reach = own("dilation") * (own("kernel_size") - 1)
    padding = own("padding")
    if isinstance(padding, str):
        padding = reach // 2 if padding == "same" else 0
    return reach / 2 - padding, own("stride")

"""The two runs of an explanation: what the network answers, and what its layers say for it.

Both are under `torch.no_grad` but for the parts that gradients are needed of. A network over
slices is watched at its 2D trunk, which sees a chunk of slices at a time; any other as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from volumetric.errors import ConfigError, IntensityError, UnsupportedError
from volumetric.explanation.layers import Layer, find_bottlenecks, find_layers, finest_layers
from volumetric.explanation.passing import Passing, Shape, watch
from volumetric.models.heads import SliceHead
from volumetric.models.slices import SliceNetwork

_TRIED = 6  # layers, from the last: behind attention to a class token no voxel has a gradient


@dataclass(frozen=True, eq=False)
class Answer:
    """What the first run told.

    Attributes:
        class_index: the class.
        outputs: what the trunk gave for each chunk of slices; the logits of a whole network.
        gradients: of the class's logit by these.
        attention: of each slice (D,); None where the network has none.
        layers: of which the last with a gradient is to be taken.
    """

    class_index: int
    outputs: Sequence[torch.Tensor]
    gradients: Sequence[torch.Tensor]
    attention: torch.Tensor | None
    layers: Sequence[Layer]


def ask(
    network: nn.Module, batch: torch.Tensor, *, target: int | None, layer: nn.Module | None
) -> Answer:
    """The network's answer to one image (1, C, D, H, W), and where to ask what it is made of.

    Raises:
        ConfigError, IntensityError, UnsupportedError: see `explain`.
    """
    trunk = trunk_of(network)
    passings: list[Passing] = []
    outputs: list[torch.Tensor] = []
    layers: list[Layer] = []
    given: Shape = ()
    start: object = None

    def enter(slices: torch.Tensor) -> torch.Tensor:
        nonlocal given, start
        torch.set_grad_enabled(not outputs)  # the layers are the same for every chunk
        if outputs:
            return slices
        given, entered = tuple(slices.shape), slices.detach().requires_grad_().clone()
        start = entered.grad_fn
        return entered

    def visit(passing: Passing, _: torch.Tensor) -> None:
        if not outputs:
            passings.append(passing)

    def leave(output: torch.Tensor) -> torch.Tensor:
        if not isinstance(output, torch.Tensor):
            raise _no_logits(type(output).__name__)
        if not outputs:
            found = find_layers(passings, given)
            ways = find_bottlenecks(output, start)
            layers.extend(_choose_layers(found, ways, trunk, given, layer=layer))
        torch.set_grad_enabled(True)
        outputs.append(output.detach().requires_grad_())
        return outputs[-1]

    # Of the first chunk the graph is wanted, but none of the tensors that it would hold.
    graph_only = saved_tensors_hooks(lambda tensor: tensor if outputs else None, lambda kept: kept)
    with graph_only, watch(trunk, enter=enter, visit=visit, leave=leave):
        logits, attention = _answer(network, batch)
    class_index = _choose_class(logits, target)
    gradients = torch.autograd.grad(
        logits[0, class_index], outputs, allow_unused=True, materialize_grads=True
    )
    return Answer(class_index, outputs, gradients, attention, layers)


def weigh(
    network: nn.Module, batch: torch.Tensor, answer: Answer
) -> tuple[Layer, torch.Tensor, bool]:
    """The layer, what its voxels say for the class (N, *extents), and whether it has a gradient.

    Equations 1 and 2 of Selvaraju 2017, without the rectifier: the mean gradient of a feature is
    its weight. N is slices, of all streams, or 1.
    """
    layers = {layer.number: layer for layer in answer.layers}
    kept: dict[int, torch.Tensor] = {}
    signed: dict[int, list[torch.Tensor]] = {number: [] for number in layers}
    reached: set[int] = set()
    gradients = iter(answer.gradients)

    def visit(passing: Passing, tensor: torch.Tensor) -> torch.Tensor | None:
        if passing.number not in layers:
            return None
        # Gradients begin here: nothing before is kept for them.
        torch.set_grad_enabled(True)
        kept[passing.number] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        # Whatever comes next may write into its input.
        return kept[passing.number].clone()

    def enter(slices: torch.Tensor) -> torch.Tensor:
        torch.set_grad_enabled(False)
        return slices

    def leave(output: torch.Tensor) -> torch.Tensor:
        pulls = torch.autograd.grad(
            output, list(kept.values()), next(gradients), allow_unused=True, materialize_grads=True
        )
        for (number, tensor), pull in zip(kept.items(), pulls, strict=True):
            features, gradient = (layers[number].arrange(x.detach()) for x in (tensor, pull))
            axes = tuple(range(2, features.ndim))
            signed[number].append((gradient.mean(axes, keepdim=True) * features).sum(1))
            if gradient.any():
                reached.add(number)
        kept.clear()
        return output.detach()

    with watch(trunk_of(network), enter=enter, visit=visit, leave=leave):
        network(batch)
    number = max(reached, default=max(layers))
    return layers[number], torch.cat(signed[number]), number in reached


def trunk_of(network: nn.Module) -> nn.Module:
    """What is watched: the 2D trunk of a network over slices, or all of another."""
    return network.trunk if isinstance(network, SliceNetwork) else network


def _answer(network: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits, and the attention of slices where there is any."""
    if not isinstance(network, SliceNetwork):
        return network(batch), None
    logits, counted = network.weigh_slices(batch)
    has_attention = cast(SliceHead, network.heads[0]).aggregate == "attention"
    return logits, counted[0].detach() if has_attention else None


def _choose_class(logits: torch.Tensor, target: int | None) -> int:
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 1:
        raise _no_logits(
            f"a tensor {tuple(logits.shape)}"
            if isinstance(logits, torch.Tensor)
            else type(logits).__name__
        )
    if not torch.isfinite(logits).all():
        raise IntensityError(
            "not-finite",
            "the network's answer to this image is not finite",
            "Look for values that are not finite in the image",
        )
    n_classes = logits.shape[1]
    if target is None:
        return int(logits[0].argmax())
    if not 0 <= target < n_classes:
        raise ConfigError(
            "no-such-class",
            f"class {target} is asked for, of a network that has {n_classes}",
            f"Use a number from 0 to {n_classes - 1}",
        )
    return target


def _no_logits(found: str) -> UnsupportedError:
    return UnsupportedError(
        "no-logits",
        f"the network answers with {found}, not with logits (1, n_classes)",
        "Explain a network that classifies whole images",
    )


def _choose_layers(
    layers: Sequence[Layer],
    ways: set[tuple[object, int]],
    trunk: nn.Module,
    given: Shape,
    *,
    layer: nn.Module | None,
) -> Sequence[Layer]:
    if layer is None:
        chosen = finest_layers([one for one in layers if one.source in ways], given)[-_TRIED:]
    else:
        if all(module is not layer for module in trunk.modules()):
            raise ConfigError(
                "no-such-layer",
                f"{type(layer).__name__} is no module of the network",
                "Give one of network.modules()",
            )
        chosen = [one for one in layers if layer in one.modules][-1:]
    if not chosen:
        raise UnsupportedError(
            "no-layer",
            f"no voxels are left in what comes out of {type(layer or trunk).__name__}",
            "Give a larger image, or another layer",
        )
    return chosen

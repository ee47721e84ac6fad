"""Learning on from weights learnt elsewhere: what of a network learns, when, and how fast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Stage = tuple[str, list[nn.Parameter]]
Norm = Literal["train", "eval"]

_CHAINS = (nn.Sequential, nn.ModuleList)  # not their subclasses, which are blocks with a name


def split_stages(network: nn.Module) -> list[Stage]:
    """The stages of a network from its input to its head: name and parameters, each in one.

    The head is the last child that has parameters: what `load_backbone` leaves new. Stages are
    the children before it; where there is one alone, such as the 2D network of a `SliceNetwork`,
    its children; plain sequences are taken apart into their blocks. A normalisation, or whatever
    else has vectors alone, belongs to the stage before it, and parameters outside any child to the
    first. A classifier registers its children in the order in which they run: that needs no
    input of the right size, as watching it run would, and the tests watch each of ours run.
    """
    trunk, (head_name, head) = _split(network)
    pieces = [piece for name, module in trunk for piece in _unfold(name, module)]
    stages: list[Stage] = []
    for name, parameters in pieces:
        if stages and all(parameter.ndim <= 1 for parameter in parameters):
            stages[-1][1].extend(parameters)
        else:
            stages.append((name, parameters))
    stages.append((head_name, list(head.parameters())))
    inside = {id(parameter) for _, parameters in stages for parameter in parameters}
    stages[0][1][:0] = [one for one in network.parameters() if id(one) not in inside]
    return _without_repeats(stages)


def head_of(network: nn.Module) -> str:
    """What the head of a network is called, see `split_stages`; "" of one of a single module."""
    return _split(network)[1][0]


def group_parameters(
    network: nn.Module, *, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for an optimizer, from input to head, each with the `scale` of its learning rate.

    The head learns at scale 1, each stage below at `layer_decay` times that of the one above it
    (Howard & Ruder 2018; Clark 2020 has it as layer-wise decay). Weights of layers decay, while
    biases, norms, tokens and tables of positions do not. At a layer decay of 1: one group of
    everything, all of which decays.
    """
    if layer_decay == 1:
        everything = list(network.parameters())
        return [{"params": everything, "weight_decay": weight_decay, "scale": 1.0}]
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    stages = split_stages(network)
    groups = []
    for number, (_, parameters) in enumerate(stages):
        scale = layer_decay ** (len(stages) - 1 - number)
        decaying = [p for p in parameters if p.ndim > 1 and names[id(p)].endswith("weight")]
        chosen = {id(parameter) for parameter in decaying}
        others = [parameter for parameter in parameters if id(parameter) not in chosen]
        for members, decay in ((decaying, weight_decay), (others, 0.0)):
            if members:
                groups.append({"params": members, "weight_decay": decay, "scale": scale})
    return groups


def count_learning(epoch: int, *, n_stages: int, unfreeze_epochs: int) -> int:
    """How many stages below the head learn in an epoch (gradual unfreezing, Howard & Ruder 2018).

    None for `unfreeze_epochs`; then they join from the top, evenly over as many epochs again, in
    the last of which all learn.
    """
    if not unfreeze_epochs:
        return n_stages
    joined = epoch - unfreeze_epochs + 1
    return min(n_stages, max(0, -(-joined * n_stages // unfreeze_epochs)))


@contextlib.contextmanager
def hold_back(
    network: nn.Module, epoch: int, *, unfreeze_epochs: int, norm: Norm, spare: bool = True
) -> Iterator[list[nn.Parameter]]:
    """Within it, what does not learn in this epoch is held; yields those parameters.

    They get no gradient, which spares the work below the lowest stage that learns. Without
    `spare` they do, and the caller drops it: what needs a gradient is part of a compiled
    network, which would be compiled anew at each stage that joins. While one waits, or with
    `norm` "eval" always, the batch norms below the head are in evaluation mode: their statistics
    stay, their scales and offsets learn with their stage. Enter after `network.train()`.
    """
    *below, _ = split_stages(network)
    n_learning = count_learning(epoch, n_stages=len(below), unfreeze_epochs=unfreeze_epochs)
    held = below[: len(below) - n_learning]
    waiting = [one for _, parameters in held for one in parameters if one.requires_grad]
    if waiting or norm == "eval":
        head = set(_split(network)[1][1].modules())
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module not in head:
                module.eval()
    for parameter in waiting:
        parameter.requires_grad_(not spare)
    try:
        yield waiting
    finally:
        for parameter in waiting:
            parameter.requires_grad_(True)


def _split(network: nn.Module) -> tuple[list[tuple[str, nn.Module]], tuple[str, nn.Module]]:
    """What lies below the head, and the head, each with its name."""
    *below, head = _children("", network) or [("", network)]
    while len(below) == 1 and (within := _children(*below[0])):
        below = within
    return below, head


def _children(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Those that have parameters."""
    prefix = f"{name}." if name else ""
    return [
        (prefix + own, child)
        for own, child in module.named_children()
        if next(child.parameters(), None) is not None
    ]


def _unfold(name: str, module: nn.Module) -> Iterator[Stage]:
    if type(module) not in _CHAINS:
        yield name, list(module.parameters())
        return
    for own, child in _children(name, module):
        yield from _unfold(own, child)


def _without_repeats(stages: list[Stage]) -> list[Stage]:
    """A parameter that several stages share belongs to the first."""
    seen: set[int] = set()
    kept = []
    for name, parameters in stages:
        own = [one for one in dict.fromkeys(parameters) if id(one) not in seen]
        seen |= {id(one) for one in own}
        kept.append((name, own))
    return kept

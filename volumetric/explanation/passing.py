"""What passes through a network while it runs; the network is left as it was found."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Passing:
    """One tensor that enters or leaves a module.

    Attributes:
        number: how many passed before, since the network was entered.
        first: the number at which this very tensor first passed.
        module: the module.
        name: of the module, "layer4", or "input of avgpool".
        shape: of the tensor.
        beside: what goes in or comes out beside it.
        taken: shape of what went in, where the tensor came out; else None.
        source: which step of the network made it, and which of the step's results it is; None
            where it was made without gradients.
    """

    number: int
    first: int
    module: nn.Module
    name: str
    shape: Shape
    beside: tuple[Any, ...]
    taken: Shape | None
    source: tuple[object, int] | None


@contextmanager
def watch(
    network: nn.Module,
    *,
    enter: Callable[[torch.Tensor], torch.Tensor],
    visit: Callable[[Passing, torch.Tensor], torch.Tensor | None],
    leave: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """While it lasts, all that passes the network is shown as it runs.

    `enter` sees what goes into the network, and gives what is to go in; `visit` sees each tensor
    that enters or leaves a module within, and may give another in its place; `leave` sees what
    comes out, and gives what is to come out. Each may switch gradients on or off from there on.
    """
    numbers = itertools.count()
    known: dict[tuple[object, int], int] = {}

    def begin(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal numbers
        numbers = itertools.count()
        known.clear()
        return enter(inputs[0]), *inputs[1:]

    def show(
        module: nn.Module, name: str, values: tuple[Any, ...], taken: Shape | None
    ) -> tuple[Any, ...] | None:
        if not values or not isinstance(values[0], torch.Tensor):
            return None
        tensor, *beside = values
        number = next(numbers)
        # What was written into is another tensor; a dead one's reference equals no other.
        first = known.setdefault((weakref.ref(tensor), tensor._version), number)
        passing = Passing(
            number=number,
            first=first,
            module=module,
            name=name,
            shape=tuple(tensor.shape),
            beside=tuple(beside),
            taken=taken,
            source=None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr),
        )
        new = visit(passing, tensor)
        return None if new is None else (new, *beside)

    def before(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return show(module, f"input of {name}", inputs, None)

    def after(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        taken = _first_shape(inputs)
        if isinstance(output, tuple):
            return show(module, name, output, taken)
        new = show(module, name, (output,), taken)
        return None if new is None else new[0]

    def end(_: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return leave(output)

    own = [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]
    handles = own + _hook_inner(network, before, after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook_inner(
    network: nn.Module, before: Callable[..., Any], after: Callable[..., Any]
) -> list[RemovableHandle]:
    """Call `before` and `after` with a name, and what a hook is given, for each module within."""
    handles = []
    for name, module in network.named_modules():
        if module is not network:
            handles.append(module.register_forward_pre_hook(partial(before, name)))
            handles.append(module.register_forward_hook(partial(after, name)))
    return handles


def _first_shape(values: tuple[Any, ...]) -> Shape:
    return next((tuple(one.shape) for one in values if isinstance(one, torch.Tensor)), ())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """While it lasts, the network is in evaluation mode; then every module is in its own again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training

"""Batch normalisation: kept as it was learnt, and counted once where layers are run twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def freeze_norm(module: nn.Module) -> None:
    """Keep each batch normalisation within the module, which is changed, in evaluation for good.

    They use the means and variances they came with and count no new ones, in training too,
    whatever `train` is called afterwards: for batches of one or two volumes, the slices of which
    are too alike to take statistics of. Their scales and offsets go on learning. Copies and
    pickles of the module stay frozen; its state dict has the same names.
    """
    for part in module.modules():
        if isinstance(part, _KINDS):
            part.register_forward_pre_hook(_evaluate)


def _evaluate(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001 - a hook's arguments
    if module.training:
        module.eval()


@contextmanager
def count_nothing(module: nn.Module) -> Iterator[None]:
    """Meanwhile what passes through the module in training leaves its running means alone.

    Batches are still normalised by their own statistics: when activations are computed a second
    time for the backward pass, the first time has counted already.
    """
    # With no running means at all batch norm would keep other tensors for the backward pass than
    # it did the first time, which is not allowed: it moves them by nothing instead.
    norms = [part for part in module.modules() if isinstance(part, _KINDS)]
    own = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, n_batches) in zip(norms, own, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, n_batches

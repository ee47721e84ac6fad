"""Networks of random weights whose answers do not fade away from layer to layer."""

from __future__ import annotations

import torch
from torch import nn


def wake(network: nn.Module, *, size: int = 64) -> None:
    """Count in every batch normalisation what noise leaves there, as training would."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    own = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.inference_mode():
        network.train()(torch.randn(8, 3, size, size))
    for norm, momentum in zip(norms, own, strict=True):
        norm.momentum = momentum
    network.eval()

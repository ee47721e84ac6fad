"""The temporal shift: slices pass some of what was found in them to their neighbours."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Branches = Literal["conv", "block", "conv1"]


class Shifted(nn.Module):
    """A branch that sees an eighth of its channels from the slice before, and one from after.

    The temporal shift module (Lin 2019), which learns motion at no cost; zeros come in at the
    ends. A slice alone has no neighbours and is left as it is, which makes the network of one
    slice the 2D network it is made of.

    Attributes:
        layout: of the slices to come: how many each image has, or which are an image's first, (N,).
    """

    layout: int | torch.Tensor

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch = branch
        self.layout = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the branch finds."""
        if isinstance(self.layout, int):
            if self.layout > 1:
                x = shift_slices(x, torch.arange(x.shape[0], device=x.device) % self.layout == 0)
        else:
            x = shift_slices(x, self.layout)
        result: torch.Tensor = self.branch(x)
        return result


def shift_slices(x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Features (N, C, H, W): the first C/8 channels from the slice after, the next from before.

    Slices of images lie one after the other; `first` (N,) says which begin one.
    """
    fold = x.shape[1] // 8
    first = first[:, None, None, None]
    last = first.roll(-1, 0)  # the very first slice begins an image, so the very last ends one
    alone = first & last
    early, late = x[:, :fold], x[:, fold : 2 * fold]
    ahead = torch.where(last, early * alone, early.roll(-1, 0))
    behind = torch.where(first, late * alone, late.roll(1, 0))
    return torch.cat([ahead, behind, x[:, 2 * fold :]], 1)


def insert_shifts(trunk: nn.Module, branches: Branches) -> None:
    """Shift what enters the residual branches of the trunk, which is changed.

    Args:
        trunk: one of torchvision's residual networks.
        branches: what its blocks call the branch.
    """
    for block in list(trunk.modules()):
        branch = block._modules.get(branches)
        # The stem of a ResNet is called conv1 too, and is no branch of a block; blocks that
        # change the size have no shortcut beside the branch, in all families but ResNet and
        # ConvNeXt, whose blocks do not say so.
        if branch is None or block is trunk or not getattr(block, "use_res_connect", True):
            continue
        block._modules[branches] = Shifted(branch)

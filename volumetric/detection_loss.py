"""What a detector's cells should have said, chosen anew at every step, and how far off they were.

SimOTA, the dynamic assignment of YOLOX (Ge et al., 2021; after OTA, Ge et al., CVPR 2021): an
object is given the cells near its centre that say best what it is already, and the more of them
the better they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from volumetric.boxes import overlap_pairs
from volumetric.models.detector import Cells

_RADIUS = 1.5  # cells around an object's centre that may be its own
_MOST = 10  # cells an object can have
_BOX_COST, _BOX_WEIGHT = 3.0, 5.0  # as in YOLOX
_TINY = 1e-7


@dataclass(frozen=True, eq=False)
class Target:
    """What is in one image.

    Attributes:
        boxes: (n, 6) in voxels, as `Cells` has them.
        labels: (n,), numbers of classes.
    """

    boxes: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Target:
        """The same on a device."""
        return Target(self.boxes.to(device), self.labels.to(device))


def detection_loss(
    cells: Cells, targets: Sequence[Target], *, hard_negatives: int = 0
) -> torch.Tensor:
    """Mean over given cells of the losses of class, box (1 - IoU^2) and centre.

    Classes are to be the overlap of box and object, centres 1 where a cell was given an object and
    0 elsewhere; both by binary cross-entropy. With `hard_negatives` only so many times as many
    cells without an object count as with one, those that are surest that there is one.
    """
    total = cells.centres.new_zeros(())
    n_given = 0
    for number, target in enumerate(targets):
        logits, boxes = cells.logits[number], cells.boxes[number]
        owner = assign_cells(cells, number, target)
        given = owner >= 0
        n_given += int(given.sum())
        centre = F.binary_cross_entropy_with_logits(
            cells.centres[number], given.to(logits), reduction="none"
        )
        if hard_negatives:
            n_hard = min(int((~given).sum()), hard_negatives * max(1, int(given.sum())))
            total = total + centre[given].sum() + centre[~given].topk(n_hard).values.sum()
        else:
            total = total + centre.sum()
        if not given.any():
            continue
        own = target.boxes[owner[given]]
        overlap = overlap_pairs(boxes[given], own)
        wanted = F.one_hot(target.labels[owner[given]], logits.shape[1]).to(logits)
        wanted = wanted * overlap.detach()[:, None]
        classes = F.binary_cross_entropy_with_logits(logits[given], wanted, reduction="sum")
        total = total + classes + _BOX_WEIGHT * (1 - overlap**2).sum()
    return total / max(1, n_given)


@torch.no_grad()
def assign_cells(cells: Cells, number: int, target: Target) -> torch.Tensor:
    """For each cell (N,) of one image the number of the object it is given, or -1."""
    points = cells.points
    owner = torch.full((len(points),), -1, dtype=torch.long, device=points.device)
    if not len(target.boxes):
        return owner
    low, high = target.boxes[:, None, :3], target.boxes[:, None, 3:]
    inside = ((points > low) & (points < high)).all(-1)
    apart = (points - (low + high) / 2).abs() / cells.strides
    near = (apart <= _RADIUS).all(-1)
    # An object smaller than a cell may hold no point: the nearest cell's is its own then.
    nearest = apart.amax(-1).argmin(1)
    may_be = inside & near
    may_be[torch.arange(len(nearest)), nearest] |= ~may_be.any(1)

    overlaps = overlap_pairs(target.boxes[:, None], cells.boxes[number])
    sure = (cells.logits[number].sigmoid() * cells.centres[number].sigmoid()[:, None]).sqrt()
    wanted = F.one_hot(target.labels, sure.shape[1]).to(sure)
    off = F.binary_cross_entropy(
        sure[None].expand(len(wanted), -1, -1),
        wanted[:, None].expand(-1, len(sure), -1),
        reduction="none",
    ).sum(-1)
    cost = off - _BOX_COST * (overlaps + _TINY).log()
    cost = torch.where(may_be, cost, torch.inf)

    # As many cells as the best boxes overlap the object in sum.
    best = torch.where(may_be, overlaps, 0.0).topk(min(_MOST, len(points)), 1).values
    wanted_cells = best.sum(1).int().clamp(min=1).minimum(may_be.sum(1))
    taken = torch.zeros_like(may_be)
    for row, k in enumerate(wanted_cells.tolist()):
        taken[row, cost[row].topk(k, largest=False).indices] = True
    cheapest = torch.where(taken, cost, torch.inf).min(0)
    owner[taken.any(0)] = cheapest.indices[taken.any(0)]
    return owner

"""Losses over logits and labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def dice_and_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy minus the mean soft Dice of the foreground classes over the whole batch.

    `logits` (B, classes, D, H, W), `labels` (B, D, H, W) integer. Soft Dice as in Drozdzal
    2016 with nnU-Net's batch Dice (Isensee 2021): sums run over batch and voxels, so that a
    class absent from one patch does not disturb.
    """
    logits = logits.to(torch.float32)
    labels = labels.to(torch.int64)
    entropy = F.cross_entropy(logits, labels)
    probabilities = logits.softmax(1)[:, 1:]
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probabilities)
    axes = (0, 2, 3, 4)
    overlap = (probabilities * truth).sum(axes)
    total = probabilities.sum(axes) + truth.sum(axes)
    dice = (2 * overlap + 1e-5) / (total + 1e-5)
    return entropy - dice.mean()


def deep_supervision(
    outputs: torch.Tensor | Sequence[torch.Tensor], labels: torch.Tensor
) -> torch.Tensor:
    """The loss of each decoder stage, weighted 1, 1/2, 1/4, … and summed to weight 1.

    Labels are brought to each stage's grid by nearest neighbour (Isensee 2021). A single tensor
    holds the logits of a network that answers at one depth only; its loss is all.
    """
    if isinstance(outputs, torch.Tensor):
        return dice_and_cross_entropy(outputs, labels)
    weights = [0.5**depth for depth in range(len(outputs))]
    total = outputs[0].new_zeros((), dtype=torch.float32)
    for weight, logits in zip(weights, outputs, strict=True):
        smaller = labels
        if logits.shape[2:] != labels.shape[1:]:
            smaller = F.interpolate(labels[:, None].to(torch.float32), size=logits.shape[2:])[:, 0]
        total = total + weight / sum(weights) * dice_and_cross_entropy(logits, smaller)
    return total

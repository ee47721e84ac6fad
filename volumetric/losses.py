"""Losses over logits and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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


def classification_loss(
    drawn: torch.Tensor,
    *,
    multi_label: bool = False,
    label_smoothing: float = 0.0,
    adjust_logits: bool = False,
    class_weights: float = 0.0,
    gamma: float = 0.0,
) -> Loss:
    """A function of logits and soft targets, both (B, n_classes): the mean loss, float32.

    Cross-entropy, or binary cross-entropy of each class; focal where `gamma` is above 0.

    Args:
        drawn: how often each class is among the targets, from 0 to 1: (n_classes,).
        multi_label: whether each class is answered for itself.
        label_smoothing: share of each target that is spread evenly over the classes, or over
            yes and no (Szegedy 2016).
        adjust_logits: learn above the frequencies, which are odds for several labels (Menon
            2021, equation 10): rare classes are named more often.
        class_weights: power of the weights, see `weigh_classes`; 0 for none. What they make up
            for is not adjusted again, so that at 1 there is nothing left to adjust.
        gamma: see `focal_loss`.
    """
    rare = drawn.clamp(1e-3, 1 - 1e-3)
    # Weights to the power w leave a class the frequency (or odds) to the power 1 - w.
    offset = (rare.logit() if multi_label else rare.log()) * (adjust_logits * (1 - class_weights))
    weights = None
    if class_weights:
        weights = weigh_classes(drawn, power=class_weights, multi_label=multi_label)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        adjusted = logits.float() + offset.to(logits.device)
        if gamma or weights is not None:
            own = None if weights is None else weights.to(logits.device)
            focal = binary_focal_loss if multi_label else focal_loss
            return focal(
                adjusted, targets, gamma=gamma, label_smoothing=label_smoothing, weights=own
            )
        if multi_label:
            soft = targets * (1 - label_smoothing) + label_smoothing / 2
            return F.binary_cross_entropy_with_logits(adjusted, soft)
        return F.cross_entropy(adjusted, targets, label_smoothing=label_smoothing)

    return loss


def weigh_classes(drawn: torch.Tensor, *, power: float, multi_label: bool = False) -> torch.Tensor:
    """Weights (n_classes,) that make up for how often each class is among the targets.

    The inverse of its frequency, to the power: at 0 each case counts as much, at 1 each class.
    They average 1 over the targets, so that the loss keeps its size. For several labels a case:
    the inverse of the odds, to the power, which a yes then counts for against a no. A class in
    less than a thousandth of the targets weighs no more than one in a thousandth.
    """
    rare = drawn.clamp(1e-3, 1 - 1e-3)
    if multi_label:
        return (1 / rare - 1) ** power
    weights = rare**-power
    return weights / (weights * drawn / drawn.sum()).sum()


def focal_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean over cases of -Σ t (1 - p)^gamma log p, where p is the softmax (Lin 2017).

    `logits` and `targets` (B, n_classes), where targets may be mixtures: each costs the mixture
    of what its parts cost. Cross-entropy at gamma 0; above it, what is answered well already
    counts for little. `weights` (n_classes,) multiply what a case of the class costs. They
    come before smoothing, unlike torch's own: what is spread over a class that no case has does
    not grow with that class's weight.
    """
    if weights is not None:
        targets = targets * weights
    spread = targets.mean(1, keepdim=True)
    soft = targets * (1 - label_smoothing) + spread * label_smoothing
    log_p = logits.float().log_softmax(1)
    return -(soft * _missed(log_p) ** gamma * log_p).sum(1).mean()


def binary_focal_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean of -t (1 - p)^gamma log p - (1 - t) p^gamma log(1 - p), p the sigmoid.

    Over cases and classes; see `focal_loss`. `weights` multiply what a yes costs.
    """
    yes, no = targets if weights is None else targets * weights, 1 - targets
    moved = (yes - no) * label_smoothing / 2
    log_p, log_q = F.logsigmoid(logits.float()), F.logsigmoid(-logits.float())
    costs = (yes - moved) * _missed(log_p) ** gamma * log_p
    costs = costs + (no + moved) * _missed(log_q) ** gamma * log_q
    return -costs.mean()


def _missed(log_p: torch.Tensor) -> torch.Tensor:
    """1 - p, exact where it is small; kept off 0, where a power below 1 has no slope."""
    return (-log_p.expm1()).clamp_min(1e-12)

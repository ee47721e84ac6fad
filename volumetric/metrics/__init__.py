"""How good a prediction is, and how sure of that one can be."""

from __future__ import annotations

from volumetric.metrics.segmentation import CaseScores, dice_of_label, score_masks
from volumetric.metrics.statistics import (
    Interval,
    PairedDifference,
    bootstrap_mean,
    paired_difference,
)

__all__ = [
    "CaseScores",
    "Interval",
    "PairedDifference",
    "bootstrap_mean",
    "dice_of_label",
    "paired_difference",
    "score_masks",
]

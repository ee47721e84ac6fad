"""How good a prediction is, and how sure of that one can be."""

from __future__ import annotations

from volumetric.metrics.calibration import (
    ReliabilityBin,
    bin_reliability,
    score_calibration,
)
from volumetric.metrics.classification import (
    Confusion,
    average_views,
    count_confusion,
    score_classification,
)
from volumetric.metrics.comparison import (
    Compared,
    compare_classification,
    compare_statistics,
)
from volumetric.metrics.delong import AreaDifference, delong_difference
from volumetric.metrics.localisation import Match, match_segments, score_localisation
from volumetric.metrics.resampling import Resampling, bootstrap_statistic
from volumetric.metrics.scoring import score_statistic
from volumetric.metrics.segmentation import CaseScores, dice_of_label, score_masks
from volumetric.metrics.segments import Segment, merge_segments, smooth_windows, temporal_iou
from volumetric.metrics.statistics import (
    Interval,
    PairedDifference,
    bootstrap_mean,
    paired_difference,
)
from volumetric.metrics.temperature import (
    apply_temperature,
    choose_temperatures,
    fit_temperature,
    scale_probabilities,
    two_sided,
)
from volumetric.metrics.thresholds import (
    Choice,
    call_classes,
    choose_thresholds,
    threshold_statistic,
    youden_threshold,
)

__all__ = [
    "AreaDifference",
    "CaseScores",
    "Choice",
    "Compared",
    "Confusion",
    "Interval",
    "Match",
    "PairedDifference",
    "ReliabilityBin",
    "Resampling",
    "Segment",
    "apply_temperature",
    "average_views",
    "bin_reliability",
    "bootstrap_mean",
    "bootstrap_statistic",
    "call_classes",
    "choose_temperatures",
    "choose_thresholds",
    "compare_classification",
    "compare_statistics",
    "count_confusion",
    "delong_difference",
    "dice_of_label",
    "fit_temperature",
    "match_segments",
    "merge_segments",
    "paired_difference",
    "scale_probabilities",
    "score_calibration",
    "score_classification",
    "score_localisation",
    "score_masks",
    "score_statistic",
    "smooth_windows",
    "temporal_iou",
    "threshold_statistic",
    "two_sided",
    "youden_threshold",
]

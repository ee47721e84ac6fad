"""Scores as text: names, numbers, intervals, and the order of the cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report.wording import UNITS, known, words

MEAN = "mean"  # the pseudo class: the mean over classes

_NAMES = {
    "dice": ("Dice", "Overlap of truth and prediction, 0 (none) to 1 (identical)."),
    "iou": ("IoU", "Shared part of truth and prediction together, 0 to 1; also called Jaccard."),
    "hd95_mm": ("HD95", "Distance that 95 % of both surfaces keep within; 0 is perfect."),
    "assd_mm": ("ASSD", "Mean distance between the two surfaces; 0 is perfect."),
    "nsd": ("NSD", "Part of both surfaces that lies within the tolerance, 0 to 1."),
    "volume_truth_ml": ("Volume, truth", "Volume of the reference."),
    "volume_prediction_ml": ("Volume, predicted", "Volume of the prediction."),
    "volume_error_ml": ("Volume error", "Size of that difference, whatever its sign."),
    "volume_difference_ml": ("Volume, difference", "Prediction minus truth; 0 is no difference."),
    "top1": ("Top-1", "Part of the cases whose most probable class is the true one."),
    "top5": ("Top-5", "Part of the cases with the true class among the five most probable."),
    "balanced_accuracy": ("Balanced accuracy", "Mean recall: of the classes, or of both sides."),
    "recall": ("Recall", "Part of a class\u2019s cases that were found."),
    "precision": ("Precision", "Part of the cases taken for a class that are of it."),
    "f1": ("F1", "Harmonic mean of recall and precision, 0 to 1."),
    "auroc": ("AUROC", "How well probabilities rank a class above the others; 0.5 is chance."),
    "average_precision": ("AP", "Area under precision over recall, 0 to 1."),
    "accuracy": ("Accuracy", "Part of the cases called right: of the class, or not of it."),
    "sensitivity": ("Sensitivity", "Part of a class\u2019s cases called so, at the threshold."),
    "specificity": ("Specificity", "Part of the other cases not called so, at the threshold."),
    "nll": ("NLL", "Mean of \u2212ln of the true class\u2019s probability; 0 is perfect."),
    "brier": ("Brier score", "Mean squared error of the probabilities, 0 (perfect) to 2."),
    "ece_mass": ("ECE, equal counts", "Mean gap of confidence and accuracy; few cases raise it."),
    "ece_width": ("ECE, equal widths", "The same in bins of equal width."),
    "froc": ("FROC", "Mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false boxes a case."),
    **{
        f"froc@{at:g}": (f"Sensitivity at {at:g}", f"Part found where {at:g} a case are false.")
        for at in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
    },
    **{
        f"{kind}@{at:g}": (f"{kind.upper()} {at:g}", f"{text}, matched at an IoU of {at:g}.")
        for at in (0.1, 0.3, 0.5)
        for kind, text in (("ap", "Area under precision over recall"), ("ar", "Part found at all"))
    },
    "panoptic_quality": ("PQ", "Panoptic quality: segmentation quality times recognition quality."),
    "segmentation_quality": ("SQ", "Mean overlap (IoU) of objects that were found."),
    "recognition_quality": ("RQ", "F1 of objects, found where they overlap by more than half."),
    "explained": ("Explained", "Part of the variance of hidden voxels found out; 0 is their mean."),
    "mistakes": ("Mistakes", "Objects missed and boxes on nothing, from a score of 0.5 on."),
    "count_error": ("Count error", "Mean of how many a case are counted too many or too few."),
}
_SIGNED = ("volume_difference_ml",)
_FRACTIONS = (
    *("dice", "iou", "nsd", "top1", "top5", "balanced_accuracy", "recall", "precision", "f1"),
    *("accuracy", "sensitivity", "specificity", "auroc", "average_precision", "nll", "brier"),
    *("ece_mass", "ece_width", "probability", "true_probability", "count_error"),
    *("explained", "panoptic_quality", "segmentation_quality", "recognition_quality"),
    *(name for name in _NAMES if name.startswith(("froc", "ap@", "ar@"))),
)


def metric_name(metric: str) -> str:
    """The metric's name for people."""
    return _NAMES[metric][0] if metric in _NAMES else words(metric)


def metric_unit(metric: str) -> str:
    """Its unit, "" where it has none: the suffix of its key."""
    return UNITS.get(metric.rpartition("_")[2], "") if "_" in metric else ""


def metric_meaning(metric: str) -> str:
    """One sentence on how to read it, "" where it is unknown here."""
    return _NAMES[metric][1] if metric in _NAMES else ""


def is_volume(metric: str) -> bool:
    """Whether it is a volume, which the agreement plots show instead of the strips."""
    return metric.startswith("volume_")


def is_loss(metric: str) -> bool:
    """Whether less of it is better: distances, volume errors, losses of probabilities."""
    losses = metric in (
        "nll",
        "brier",
        "volume_error_ml",
        "count_error",
        "mistakes",
    ) or metric.startswith("ece_")
    return losses or metric_unit(metric) == "mm"


def difference_text(value: float, metric: str) -> str:
    """A difference of two values as printed: with its sign, and one decimal more than they have."""
    text = f"{abs(value):.4f}" if metric in _FRACTIONS else f"{abs(value):.3f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else "\N{MINUS SIGN}"
    return sign + text


def number_text(value: float, metric: str) -> str:
    """The number as printed: three decimals for fractions and below 0.1, two for mm and mL."""
    if metric in _FRACTIONS:
        text = f"{value:.3f}"
    elif metric_unit(metric) in ("mm", "mL"):
        text = f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3f}"
    else:
        text = f"{value:.4g}"
    if metric in _SIGNED and value > 0:
        text = f"+{text}"
    return text.replace("-", "\N{MINUS SIGN}")


def number(value: object, metric: str, *, reason: str | None = None) -> Markup:
    """The number with its full precision kept in the markup; a dash with its reason if unknown."""
    finite = known(value)
    if finite is None:
        why = reason or "not known"
        return Markup('<span class="none" title="{}">&ndash;</span>').format(why)
    return Markup('<data value="{!r}">{}</data>').format(finite, number_text(finite, metric))


def interval(summary: Mapping[str, Any], metric: str) -> Markup:
    """The interval of a mean, or why there is none."""
    low, high = known(summary.get("ci_low")), known(summary.get("ci_high"))
    if low is None or high is None:
        why = summary.get("reason") or "no interval"
        return Markup('<span class="none">{}</span>').format(why)
    pattern = Markup('<data value="{!r}">{}</data> to <data value="{!r}">{}</data>')
    return pattern.format(low, number_text(low, metric), high, number_text(high, metric))


def confidence(results: Mapping[str, Any]) -> str:
    """How often intervals should hold the truth: "95 %"."""
    return f"{100 * results.get('confidence', 0.95):g} %"


def known_interval(summary: Mapping[str, Any], metric: str) -> Markup:
    """The interval of a mean, nothing where there is none."""
    ends = known(summary.get("ci_low")), known(summary.get("ci_high"))
    return Markup("") if None in ends else interval(summary, metric)


def stated_interval(summary: Mapping[str, Any], metric: str, confidence: str) -> Markup:
    """The interval as a heading says it, "95 % interval …", or that there is none, and why."""
    found = interval(summary, metric)
    pattern = "{} interval {}" if known_interval(summary, metric) else "no {} interval: {}"
    return Markup(pattern).format(confidence, found)


def class_names(results: Mapping[str, Any], classes: Mapping[int, str]) -> list[str]:
    """Names of the classes, declared ones first, then any other that has scores; without mean."""
    names = [name for value, name in sorted(classes.items()) if value != 0]
    for table in results.get("metrics", {}).values():
        names += [name for name in table if name not in names and name != MEAN]
    return names


def score(case: Mapping[str, Any], metric: str, name: str) -> float | None:
    """A case's score, None where it has none."""
    return known((case.get("scores") or {}).get(metric, {}).get(name))


def score_reason(case: Mapping[str, Any], metric: str, name: str) -> str | None:
    """Why a score is missing, None where nothing was said."""
    text = (case.get("reasons") or {}).get(metric, {}).get(name)
    return None if text is None else str(text)


def mean_dice(case: Mapping[str, Any]) -> float | None:
    """What the cases are ordered by; None where the mean is not defined."""
    return score(case, "dice", MEAN)


def worst_first(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cases by ascending mean Dice, those without one last, ties by id."""

    def rank(case: Mapping[str, Any]) -> tuple[bool, float, str]:
        value = mean_dice(case)
        return value is None, 0.0 if value is None else value, str(case["id"])

    return sorted(cases, key=rank)


def missing_reasons(case: Mapping[str, Any]) -> list[str]:
    """One line for every reason a case gives for a missing score, equal ones told once."""
    told: dict[str, list[str]] = {}
    for metric, reasons in (case.get("reasons") or {}).items():
        for name, text in reasons.items():
            told.setdefault(str(text), []).append(f"{metric_name(metric)} of {name}")
    return [f"{', '.join(where)}: {text}" for text, where in told.items()]

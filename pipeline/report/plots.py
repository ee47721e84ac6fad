"""The charts of a report, made from its scores: which there are, and what each one shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report import scores
from pipeline.report.charts import (
    Point,
    Strip,
    draw_agreement,
    draw_curves,
    draw_reliability,
    draw_strips,
    limits_of_agreement,
)
from pipeline.report.record import Curve
from pipeline.report.wording import known

Cases = Sequence[Mapping[str, Any]]


def strip_plots(
    results: Mapping[str, Any], cases: Cases, names: Sequence[str], links: Mapping[str, str]
) -> list[tuple[str, Markup]]:
    """For every metric that is no volume: its title and its strip chart."""
    metrics = [m for m in results.get("metrics", {}) if not scores.is_volume(m)]
    linked = len(metrics) * len(names) * len(cases)
    plots = []
    for metric in metrics:
        summaries = results["metrics"][metric]
        strips = [
            _strip(name, number, summaries[name], _points(cases, metric, name, links))
            for number, name in enumerate(names)
            if name in summaries
        ]
        title = ", ".join(filter(None, (scores.metric_name(metric), scores.metric_unit(metric))))
        top = 1.0 if metric in ("dice", "iou", "nsd") else None
        label = f"{title}: every case, by class"
        plots.append((title, draw_strips(strips, label=label, top=top, linked=linked)))
    return plots


def _points(cases: Cases, metric: str, name: str, links: Mapping[str, str]) -> list[Point]:
    points = []
    for case in cases:
        value = scores.score(case, metric, name)
        if value is not None:
            text = f"{scores.number_text(value, metric)} {scores.metric_unit(metric)}".strip()
            title = f"{case['id']}: {text}"
            points.append(Point(value, 0.0, title, links[str(case["id"])]))
    return points


def _strip(name: str, number: int, summary: Mapping[str, Any], points: list[Point]) -> Strip:
    low, high = known(summary.get("ci_low")), known(summary.get("ci_high"))
    return Strip(
        name=name,
        colour=number,
        points=points,
        mean=known(summary.get("mean")),
        interval=None if low is None or high is None else (low, high),
    )


def agreement_plots(
    cases: Cases, names: Sequence[str], links: Mapping[str, str]
) -> list[tuple[str, Markup, str]]:
    """For every class with volumes: its name, its Bland-Altman plot and what that says."""
    plots = []
    found = {name: _agreement_points(cases, name, links) for name in names}
    linked = sum(len(points) for points in found.values())
    for number, (name, points) in enumerate(found.items()):
        if points:
            label = f"Agreement of predicted and true volume, {name}"
            chart = draw_agreement(points, colour=number, label=label, linked=linked)
            plots.append((name, chart, _agreement_text([point.y for point in points])))
    return plots


def _agreement_points(cases: Cases, name: str, links: Mapping[str, str]) -> list[Point]:
    points = []
    for case in cases:
        truth = scores.score(case, "volume_truth_ml", name)
        guess = scores.score(case, "volume_prediction_ml", name)
        if truth is not None and guess is not None:
            title = f"{case['id']}: {guess:.2f} mL predicted, {truth:.2f} mL true"
            points.append(Point((truth + guess) / 2, guess - truth, title, links[str(case["id"])]))
    return points


def _agreement_text(differences: list[float]) -> str:
    def text(value: float) -> str:
        return f"{scores.number_text(value, 'volume_difference_ml')} mL"

    bias, low, high = limits_of_agreement(differences)
    parts = [] if bias is None else [f"bias {text(bias)}"]
    if low is not None and high is not None:
        parts.append(f"limits of agreement {text(low)} to {text(high)}")
    return ", ".join([*parts, f"n = {len(differences)}"])


def truth_plot(cases: Cases, names: Sequence[str], links: Mapping[str, str]) -> Markup | None:
    """A strip per class: the probability its cases got of it, wrong ones marked; None without."""
    strips = []
    for name in names:
        points = []
        for case in cases:
            value = known((case.get("probabilities") or {}).get(name))
            if value is not None and name in (case.get("truth") or []):
                guess = ", ".join(str(found) for found in case.get("predicted") or []) or "none"
                wrong = name not in (case.get("predicted") or [])
                title = f"{case['id']}: {name} {value:.3f}, predicted {guess}"
                points.append(Point(value, 0.0, title, links[str(case["id"])], wrong))
        if points:
            # One colour: rows tell the classes apart, and the marked ones must stand out.
            strips.append(Strip(name, 1, points, None, None))
    if not strips:
        return None
    linked = sum(len(strip.points) for strip in strips)
    return draw_strips(strips, label="Probability of the true class", top=1.0, linked=linked)


def reliability_plot(bins: Sequence[Mapping[str, Any]], *, title: str) -> Markup | None:
    """Accuracy against confidence of the bins that hold a case; None without any."""
    found = [
        (confidence, accuracy, int(one["n"]))
        for one in bins
        if (confidence := known(one.get("confidence"))) is not None
        and (accuracy := known(one.get("accuracy"))) is not None
    ]
    label = f"Reliability, {title}: fraction right against mean confidence"
    return draw_reliability(found, label=label) if found else None


def training_plots(
    history: Mapping[str, Mapping[str, Curve]],
) -> list[tuple[str, Markup, Markup, str]]:
    """For every fold: its name, its loss curves, its curve on held-out cases and where it ended."""
    plots = []
    for fold, curves in history.items():
        loss = {name: curves.get(name, []) for name in ("train_loss", "val_loss")}
        score = {"val_score": curves.get("val_score", [])}
        plots.append(
            (
                fold,
                draw_curves(loss, label=f"Loss of fold {fold} over epochs", top=None),
                draw_curves(score, label=f"Held-out score of fold {fold} over epochs", top=1.0),
                _training_text(curves),
            )
        )
    return plots


def _training_text(curves: Mapping[str, Curve]) -> str:
    parts = []
    if losses := curves.get("train_loss"):
        loss = f"{losses[-1][1]:.3f}".replace("-", "\N{MINUS SIGN}")
        parts.append(f"last epoch {losses[-1][0]:g}, training loss {loss}")
    if held := curves.get("val_score"):
        epoch, best = max(held, key=lambda point: point[1])
        last = held[-1][1]
        parts.append(f"held-out score {last:.3f}, best {best:.3f} at epoch {epoch:g}")
    return "; ".join(parts)

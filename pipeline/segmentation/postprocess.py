"""Postprocess: predictions as they are scored, some classes reduced to their largest component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.files import read_json, write_json
from pipeline.progress import each_in_threads
from pipeline.provenance import record_time
from pipeline.run import SegmentRun, forget, quarantine
from pipeline.segmentation.predict import predicted_cases, prediction_path, raw_path
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import GeometryError
from volumetric.inference.segment import keep_largest
from volumetric.io import read_volume, write_volume
from volumetric.metrics.segmentation import dice_of_label
from volumetric.metrics.statistics import PairedDifference, paired_difference
from volumetric.model import load_spec, save_spec

Pair = tuple[float | None, float | None]


def postprocess(run: SegmentRun) -> None:
    """Write predictions/<case>.nii.gz: of some classes only the largest component is kept.

    Which, `predict.keep_largest` says; "auto" means: over the held-out cases the paired change
    of Dice has a 95 % interval above 0. The classes are written into the model, the reason into
    plan.json. Always made anew from predictions/raw, so that it may be repeated.
    """
    with record_time(run.folder, "postprocess"):
        forget(run, "postprocess", run.cases)
        cases = predicted_cases(run)
        classes = run.data_set.classes
        wanted = run.config.predict.keep_largest
        if wanted == "auto":
            changes = _changes(run, cases)
            chosen = [label for label, change in changes.items() if (change.ci_low or 0) > 0]
            why = "; ".join(f"{classes[label]}: {_said(changes[label])}" for label in classes)
        else:
            chosen, why = list(classes) if wanted else [], "set in the configuration"

        def write(case: Case) -> None:
            labels = read_volume(raw_path(run, case))
            write_volume(keep_largest(labels, chosen), prediction_path(run, case))

        for case, error in each_in_threads(run.config.prepare.workers)(write, cases, "finish"):
            if error is not None:
                quarantine(run, "postprocess", case, error)
        save_spec(run.model, replace(load_spec(run.model), keep_largest=chosen))
        plan = read_json(run.folder / "plan.json")
        plan["values"]["keep_largest"] = [classes[label] for label in chosen]
        plan["why"]["keep_largest"] = why
        write_json(run.folder / "plan.json", plan)


def _changes(run: SegmentRun, cases: list[Case]) -> Mapping[int, PairedDifference]:
    """By how much keeping the largest component of each class changes its Dice."""
    found: dict[str, dict[int, Pair]] = {}

    def compare(case: Case) -> None:
        found[case.id] = _compare(run, case)

    scored = [case for case in cases if case.mask is not None]
    # A case that cannot be compared has no say; evaluating it will name what is wrong.
    for _ in each_in_threads(run.config.prepare.workers)(compare, scored, "compare"):
        pass
    good = [case for case in scored if case.id in found]
    return {
        label: paired_difference(
            [found[case.id][label][0] for case in good],
            [found[case.id][label][1] for case in good],
            subjects=[case.subject for case in good],
        )
        for label in run.data_set.classes
    }


def _compare(run: SegmentRun, case: Case) -> dict[int, Pair]:
    """Dice of each class as predicted, and with its largest component only."""
    labels = read_volume(raw_path(run, case))
    _, truth = read_case(case, classes=run.data_set.classes)
    assert truth is not None
    if labels.shape != truth.shape:
        raise GeometryError(
            "shape-mismatch",
            f"mask has {truth.shape} voxels, its prediction {labels.shape}",
            "Prepare and predict the case again",
            path=case.mask,
        )
    found, true = labels.data, truth.data
    return {
        label: (
            dice_of_label(found, true, label),
            dice_of_label(keep_largest(labels, [label]).data, true, label),
        )
        for label in run.data_set.classes
    }


def _said(change: PairedDifference) -> str:
    if change.mean is None or change.ci_low is None or change.ci_high is None:
        return "not applied, too few held-out cases to tell"
    interval = f"{change.mean:+.4f} Dice ({change.ci_low:+.4f} to {change.ci_high:+.4f})"
    return f"{'applied' if change.ci_low > 0 else 'not applied'}, {interval} on the held-out cases"

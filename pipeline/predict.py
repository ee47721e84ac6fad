"""Predict: every held-out case on its own grid, by the network that has not seen it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from pipeline.device import find_device
from pipeline.progress import each_in_threads
from pipeline.run import Run, quarantine, read_json, record_time, write_json
from volumetric.cases import Case
from volumetric.inference.segment import keep_largest, segment_volume
from volumetric.io import read_volume, write_volume
from volumetric.metrics.statistics import paired_difference
from volumetric.model import Model, load_model, load_spec, save_spec
from volumetric.volume import Volume


def predict(run: Run, fold: int) -> None:
    """Write predictions/<case>.nii.gz of every case held out in the fold.

    Raises:
        UnreadableFileError, ConfigError: the fold has not been trained.
    """
    device = find_device(run.config.device)
    with record_time(run, f"predict fold {fold}"):
        model = load_model(run.model, device=device, folds=[fold])
        # Whatever an earlier prediction decided is decided anew.
        model = Model(dataclasses.replace(model.spec, keep_largest=()), model.networks)
        cases = [case for case in run.usable_cases() if case.fold == fold]
        each = each_in_threads(1)  # the network itself uses every core
        for case, error in each(lambda case: predict_case(run, model, case), cases, "predict"):
            if error is not None:
                quarantine(run, case.id, error)


def predict_case(run: Run, model: Model, case: Case) -> None:
    """Write one case's predicted mask."""
    section = run.config.predict
    labels = segment_volume(
        model, read_volume(case.image), overlap=section.overlap, mirror_axes=section.mirror_axes
    )
    write_volume(labels, prediction_path(run, case))


def prediction_path(run: Run, case: Case) -> Path:
    """Where a case's predicted mask lies."""
    return run.predictions / f"{case.id}.nii.gz"


def postprocess(run: Run) -> None:
    """Keep only the largest component of the classes for which that is asked, or surely better.

    "auto" means: over the held-out cases the paired change of Dice has a 95 % interval above 0.
    The classes are written into the model and the reason into plan.json; predictions change.
    """
    wanted = run.config.predict.keep_largest
    classes = run.data_set.classes
    predicted = [case for case in run.usable_cases() if prediction_path(run, case).exists()]
    scored = [case for case in predicted if case.mask is not None]
    if wanted == "auto":
        changes = {label: _change(run, scored, label) for label in classes}
        chosen = [label for label, (helps, _) in changes.items() if helps]
        why = "; ".join(f"{classes[label]}: {reason}" for label, (_, reason) in changes.items())
    else:
        chosen, why = list(classes) if wanted else [], "set in the configuration"
    for case in predicted if chosen else []:
        labels = read_volume(prediction_path(run, case))
        write_volume(keep_largest(labels, chosen), prediction_path(run, case))
    save_spec(run.model, dataclasses.replace(load_spec(run.model), keep_largest=chosen))
    plan = read_json(run.folder / "plan.json")
    plan["values"]["keep_largest"] = [classes[label] for label in chosen]
    plan["why"]["keep_largest"] = why
    write_json(run.folder / "plan.json", plan)


def _change(run: Run, cases: list[Case], label: int) -> tuple[bool, str]:
    """Whether keeping the largest component surely raises Dice, and by how much."""
    before, after = [], []
    for case in cases:
        assert case.mask is not None
        labels = read_volume(prediction_path(run, case))
        truth = read_volume(case.mask).data[0] == label
        before.append(_dice(labels, truth, label))
        after.append(_dice(keep_largest(labels, [label]), truth, label))
    found = paired_difference(before, after, subjects=[case.subject for case in cases])
    if found.mean is None or found.ci_low is None or found.ci_high is None:
        return False, "too few held-out cases to tell"
    helps = found.ci_low > 0
    interval = f"{found.mean:+.4f} Dice ({found.ci_low:+.4f} to {found.ci_high:+.4f})"
    return helps, f"{'applied' if helps else 'not applied'}, {interval} on the held-out cases"


def _dice(labels: Volume, truth: torch.Tensor, label: int) -> float | None:
    found = labels.data[0] == label
    total = int(found.sum() + truth.sum())
    return 2 * int((found & truth).sum()) / total if total else None

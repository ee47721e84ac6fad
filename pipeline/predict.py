"""Predict: every held-out case on its own grid, by the network that has not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.device import find_device
from pipeline.files import hash_code, hash_values, read_json, write_json
from pipeline.prepare import facts_key
from pipeline.progress import each_in_threads
from pipeline.provenance import record_time
from pipeline.run import Run, forget, quarantine
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.errors import ManifestError
from volumetric.inference.segment import keep_largest, segment_volume
from volumetric.io import read_volume, write_volume
from volumetric.metrics.statistics import PairedDifference, paired_difference
from volumetric.model import Model, ModelSpec, load_model, load_spec, save_spec
from volumetric.volume import Volume


def predict(run: Run, fold: int) -> None:
    """Write predictions/raw/<case>.nii.gz of every case held out in the fold.

    A prediction stands if it was made by the same weights from the same bytes with the same
    settings. `postprocess` makes predictions/<case>.nii.gz of them.

    Raises:
        UnreadableFileError, ConfigError: the fold has not been trained.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, f"predict fold {fold}"):
        spec = load_spec(run.model)
        model = load_model(run.model, device=device, folds=[fold])
        cases = [case for case in run.cases if case.fold == fold]
        forget(run, "predict", cases)
        usable = {case.id for case in run.usable_cases()}
        cases = [case for case in cases if case.id in usable and not _stands(run, spec, case)]
        each = each_in_threads(1)  # the network itself uses every core
        for case, error in each(lambda case: _predict_case(run, model, case), cases, "predict"):
            if error is not None:
                quarantine(run, "predict", case, error)


def postprocess(run: Run) -> None:
    """Write predictions/<case>.nii.gz: of some classes only the largest component is kept.

    Which, `predict.keep_largest` says; "auto" means: over the held-out cases the paired change
    of Dice has a 95 % interval above 0. The classes are written into the model, the reason into
    plan.json. Always made anew from predictions/raw, so that it may be repeated.
    """
    spec = load_spec(run.model)
    cases = predicted_cases(run, spec)
    classes = run.data_set.classes
    wanted = run.config.predict.keep_largest
    if wanted == "auto":
        changes = _changes(run, cases)
        chosen = [label for label, change in changes.items() if (change.ci_low or 0) > 0]
        why = "; ".join(f"{classes[label]}: {_said(change)}" for label, change in changes.items())
    else:
        chosen, why = list(classes) if wanted else [], "set in the configuration"
    for case in cases:
        labels = read_volume(_raw_path(run, case))
        write_volume(keep_largest(labels, chosen), prediction_path(run, case))
    save_spec(run.model, replace(spec, keep_largest=chosen))
    plan = read_json(run.folder / "plan.json")
    plan["values"]["keep_largest"] = [classes[label] for label in chosen]
    plan["why"]["keep_largest"] = why
    write_json(run.folder / "plan.json", plan)


def predicted_cases(run: Run, spec: ModelSpec) -> list[Case]:
    """The usable cases whose prediction was made by the weights that stand now."""
    return [case for case in run.usable_cases() if _stands(run, spec, case)]


def prediction_path(run: Run, case: Case) -> Path:
    """Where a case's predicted mask lies."""
    return run.predictions / f"{case.id}.nii.gz"


def _raw_path(run: Run, case: Case) -> Path:
    return run.predictions / "raw" / f"{case.id}.nii.gz"


def _key_path(run: Run, case: Case) -> Path:
    return run.predictions / "raw" / f"{case.id}.json"


def _predict_case(run: Run, model: Model, case: Case) -> None:
    learned = model.spec.folds[str(case.fold)]["learned"]
    if case.subject in learned:
        raise ManifestError(
            "learned-from",
            f"subject {case.subject!r} is held out in fold {case.fold}, whose network learned "
            "from it: the folds have changed since",
            "Train the fold again",
            path=run.manifest,
        )
    section = run.config.predict
    image, _ = read_case(replace(case, mask=None), classes=run.data_set.classes)
    # What an earlier postprocess decided does not count here.
    plain = Model(replace(model.spec, keep_largest=()), model.networks)
    labels = segment_volume(plain, image, overlap=section.overlap, mirror_axes=section.mirror_axes)
    write_volume(labels, _raw_path(run, case))
    write_json(_key_path(run, case), _key(run, model.spec, case))


def _stands(run: Run, spec: ModelSpec, case: Case) -> bool:
    if case.fold is None or str(case.fold) not in spec.folds or not _raw_path(run, case).exists():
        return False
    return bool(read_json(_key_path(run, case), default="") == _key(run, spec, case))


def _key(run: Run, spec: ModelSpec, case: Case) -> str:
    section = run.config.predict
    weights = spec.folds[str(case.fold)]["weights_sha256"]
    code = hash_code("preprocess", "interpolate", "inference", "io")
    return hash_values(weights, facts_key(run, case), section.overlap, section.mirror_axes, code)


def _changes(run: Run, cases: Sequence[Case]) -> dict[int, PairedDifference]:
    """By how much keeping the largest component of each class changes its Dice."""
    before: dict[int, list[float | None]] = {label: [] for label in run.data_set.classes}
    after: dict[int, list[float | None]] = {label: [] for label in run.data_set.classes}
    scored = [case for case in cases if case.mask is not None]
    for case in scored:
        _, truth = read_case(case, classes=run.data_set.classes)
        labels = read_volume(_raw_path(run, case))
        assert truth is not None
        for label in run.data_set.classes:
            before[label].append(_dice(labels, truth, label))
            after[label].append(_dice(keep_largest(labels, [label]), truth, label))
    subjects = [case.subject for case in scored]
    return {
        label: paired_difference(before[label], after[label], subjects=subjects)
        for label in run.data_set.classes
    }


def _said(change: PairedDifference) -> str:
    if change.mean is None or change.ci_low is None or change.ci_high is None:
        return "not applied, too few held-out cases to tell"
    interval = f"{change.mean:+.4f} Dice ({change.ci_low:+.4f} to {change.ci_high:+.4f})"
    return f"{'applied' if change.ci_low > 0 else 'not applied'}, {interval} on the held-out cases"


def _dice(labels: Volume, truth: Volume, label: int) -> float | None:
    found, true = labels.data == label, truth.data == label
    total = int(found.sum() + true.sum())
    return 2 * int((found & true).sum()) / total if total else None

"""Predict: the cases held out in a fold, each labelled by the network that has not seen them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.classification.keys import prediction_key, training_key
from pipeline.classification.medium import LabelSpec, find_medium
from pipeline.classification.train import read_prepared
from pipeline.device import find_device
from pipeline.files import read_json, write_json
from pipeline.keys import refuse_stale
from pipeline.prediction import standing_cases
from pipeline.progress import each_in_threads
from pipeline.provenance import record_time
from pipeline.run import LabelRun, forget, quarantine
from volumetric.cases import Case
from volumetric.inference.clips import ClipScores
from volumetric.model import load_any_spec
from volumetric.spec import DetectorSpec, ModelSpec, PretrainedSpec


def predict(run: LabelRun, fold: int) -> None:
    """Write predictions/<case>.json of the cases held out in a fold.

    A prediction that was made by the same weights from the same clip stands.

    Raises:
        OutputError: the fold has not been trained with the present settings and data.
        DeviceError: the device is not there.
    """
    with record_time(run.folder, f"predict fold {fold}"):
        device = find_device(run.config.device)
        model = find_medium(run).load(run.model, device=device, folds=[fold])
        refuse_stale(run, model.spec.folds, fold, key=training_key(run, fold))
        cases = [case for case in run.usable_cases("prepare") if case.fold == fold]
        forget(run, "predict", cases)
        each = each_in_threads(1)
        for case, error in each(lambda case: _predict_case(run, model, case), cases, "predict"):
            if error is not None:
                quarantine(run, "predict", case, error)


def prediction_path(run: LabelRun, case: Case) -> Path:
    """Where a case's probabilities lie."""
    return run.predictions / f"{case.id}.json"


def predicted_cases(run: LabelRun) -> list[Case]:
    """The cases whose prediction stands, made by weights that stand themselves."""
    spec = load_any_spec(run.model)
    assert not isinstance(spec, ModelSpec | DetectorSpec | PretrainedSpec)
    return standing_cases(
        run,
        spec.folds,
        training_key=lambda fold: training_key(run, fold),
        stands=lambda case: _stands(run, spec, case),
    )


def describe_scores(scores: ClipScores, spec: LabelSpec) -> dict[str, Any]:
    """Probabilities by class, and of each view with the seconds it saw, in plain values."""
    return {
        "probabilities": dict(zip(spec.classes, _rounded(scores.probabilities), strict=True)),
        "views": [_rounded(view) for view in scores.views],
        "seconds": [_rounded(ends) for ends in scores.seen_s],
    }


def _rounded(values: Any) -> list[float]:
    return [float(f"{float(value):.9g}") for value in values]


def _predict_case(run: LabelRun, model: Any, case: Case) -> None:
    if _stands(run, model.spec, case):
        return
    scores = find_medium(run).label(run, model, read_prepared(run, case).read_image(), False)
    key = prediction_key(run, case, model.spec)
    run.predictions.mkdir(parents=True, exist_ok=True)
    write_json(prediction_path(run, case), {"key": key, **describe_scores(scores, model.spec)})


def _stands(run: LabelRun, spec: LabelSpec, case: Case) -> bool:
    found = read_json(prediction_path(run, case), default={})
    return bool(found.get("key") == prediction_key(run, case, spec))

"""Predict: every held-out case's objects, numbered on its own grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.device import find_device
from pipeline.files import read_json, write_json
from pipeline.instances.keys import prediction_key, training_key
from pipeline.keys import read_plan, refuse_stale
from pipeline.prediction import predict_held_out, standing_cases
from pipeline.provenance import record_time
from pipeline.run import InstancesRun
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.inference.segment import split_volume
from volumetric.io import write_volume
from volumetric.model import Model, load_model, load_spec
from volumetric.spec import ModelSpec


def predict(run: InstancesRun, fold: int) -> None:
    """Write predictions/<case>.nii.gz and <case>.json of every case held out in the fold.

    A prediction stands if its key does: same weights, same case as last prepared, same settings.

    Raises:
        UnreadableFileError, ConfigError: the fold has not been trained.
        OutputError: it was trained on other data, or with other settings.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, f"predict fold {fold}"):
        model = load_model(run.model, device=device, folds=[fold])
        refuse_stale(run, model.spec.folds, fold, key=training_key(run, fold))
        model = Model(_with_settings(run, model.spec), model.networks)
        predict_held_out(
            run,
            fold,
            lambda case: _predict_case(run, model, case),
            stands=lambda case: _stands(run, model.spec, case),
        )


def predicted_cases(run: InstancesRun) -> list[Case]:
    """The cases whose prediction stands, made by weights that stand themselves."""
    spec = load_spec(run.model)
    return standing_cases(
        run,
        spec.folds,
        training_key=lambda fold: training_key(run, fold),
        stands=lambda case: _stands(run, spec, case),
    )


def prediction_path(run: InstancesRun, case: Case) -> Path:
    """Where a case's numbered objects lie; how sure each is lies beside, as .json."""
    return run.predictions / f"{case.id}.nii.gz"


def scores_path(run: InstancesRun, case: Case) -> Path:
    """Where it says how sure each object is, in the order of their numbers."""
    return run.predictions / f"{case.id}.json"


def _with_settings(run: InstancesRun, spec: ModelSpec) -> ModelSpec:
    """As it is asked for now, which may differ from when it was exported."""
    plan = read_plan(run)
    return replace(
        spec,
        overlap=run.config.predict.overlap,
        apart_mm=plan["apart_mm"],
        least_voxels=plan["least_voxels"],
    )


def _predict_case(run: InstancesRun, model: Model[ModelSpec], case: Case) -> None:
    image, _ = read_case(replace(case, mask=None), classes={})
    numbers, scores = split_volume(model, image)
    scores_path(run, case).unlink(missing_ok=True)
    write_volume(numbers, prediction_path(run, case))
    rounded = [round(float(score), 6) for score in scores]
    key = prediction_key(run, case, model.spec)
    write_json(scores_path(run, case), {"key": key, "scores": rounded})


def _stands(run: InstancesRun, spec: ModelSpec, case: Case) -> bool:
    if not prediction_path(run, case).exists():
        return False
    found = read_json(scores_path(run, case), default={})
    return bool(found.get("key") == prediction_key(run, case, spec))

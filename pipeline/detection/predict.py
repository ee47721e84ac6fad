"""Predict: every held-out case looked through by the network that has not seen it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.detection.found import describe_objects
from pipeline.detection.keys import prediction_key, training_key
from pipeline.device import find_device
from pipeline.files import read_json, write_json
from pipeline.keys import refuse_stale
from pipeline.prediction import predict_held_out, standing_cases
from pipeline.provenance import record_time
from pipeline.run import DetectRun
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.inference.detect import detect_objects
from volumetric.model import Model, load_detector, load_detector_spec
from volumetric.spec import DetectorSpec


def predict(run: DetectRun, fold: int) -> None:
    """Write predictions/<case>.json of every case held out in the fold.

    A prediction stands if its key does: same weights, same case as last prepared, same settings.

    Raises:
        UnreadableFileError, ConfigError: the fold has not been trained.
        OutputError: it was trained on other data, or with other settings.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, f"predict fold {fold}"):
        model = load_detector(run.model, device=device, folds=[fold])
        refuse_stale(run, model.spec.folds, fold, key=training_key(run, fold))
        model = Model(_with_settings(run, model.spec), model.networks)
        predict_held_out(
            run,
            fold,
            lambda case: _predict_case(run, model, case),
            stands=lambda case: _stands(run, model.spec, case),
        )


def predicted_cases(run: DetectRun) -> list[Case]:
    """The cases whose prediction stands, made by weights that stand themselves."""
    spec = load_detector_spec(run.model)
    return standing_cases(
        run,
        spec.folds,
        training_key=lambda fold: training_key(run, fold),
        stands=lambda case: _stands(run, spec, case),
    )


def prediction_path(run: DetectRun, case: Case) -> Path:
    """Where what was found in a case lies."""
    return run.predictions / f"{case.id}.json"


def _with_settings(run: DetectRun, spec: DetectorSpec) -> DetectorSpec:
    """As it is asked for now, which may differ from when it was exported."""
    section = run.config.predict
    return replace(spec, suppress=section.suppress, least_score=section.least_score)


def _predict_case(run: DetectRun, model: Model[DetectorSpec], case: Case) -> None:
    section, classes = run.config.predict, run.data_set.classes
    image, _ = read_case(replace(case, mask=None), classes=classes)
    objects = detect_objects(model, image, overlap=section.overlap, mirror_axes=section.mirror_axes)
    run.predictions.mkdir(parents=True, exist_ok=True)
    described = describe_objects(objects, image, classes=model.spec.classes)
    key = prediction_key(run, case, model.spec)
    write_json(prediction_path(run, case), {"key": key, "objects": described})


def _stands(run: DetectRun, spec: DetectorSpec, case: Case) -> bool:
    found = read_json(prediction_path(run, case), default={})
    return bool(found.get("key") == prediction_key(run, case, spec))

"""Predict: every held-out case on its own grid, by the network that has not seen it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.device import find_device
from pipeline.files import read_json, write_json
from pipeline.keys import refuse_stale
from pipeline.prediction import predict_held_out, standing_cases
from pipeline.provenance import record_time
from pipeline.run import SegmentRun
from pipeline.segmentation.keys import prediction_key, training_key
from volumetric.cases import Case
from volumetric.check import read_case
from volumetric.inference.segment import segment_volume
from volumetric.io import write_volume
from volumetric.model import Model, load_model, load_spec
from volumetric.spec import ModelSpec


def predict(run: SegmentRun, fold: int) -> None:
    """Write predictions/raw/<case>.nii.gz of every case held out in the fold.

    A prediction stands if its key does: same weights, same case as last prepared, same
    settings. `postprocess` makes predictions/<case>.nii.gz of them.

    Raises:
        UnreadableFileError, ConfigError: the fold has not been trained.
        OutputError: it was trained on other data, or with other settings.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, f"predict fold {fold}"):
        model = load_model(run.model, device=device, folds=[fold])
        refuse_stale(run, model.spec.folds, fold, key=training_key(run, fold))
        predict_held_out(
            run,
            fold,
            lambda case: _predict_case(run, model, case),
            stands=lambda case: _stands(run, model.spec, case),
        )


def predicted_cases(run: SegmentRun) -> list[Case]:
    """The cases whose raw prediction stands, made by weights that stand themselves."""
    spec = load_spec(run.model)
    return standing_cases(
        run,
        spec.folds,
        training_key=lambda fold: training_key(run, fold),
        stands=lambda case: _stands(run, spec, case),
    )


def prediction_path(run: SegmentRun, case: Case) -> Path:
    """Where a case's predicted mask lies."""
    return run.predictions / f"{case.id}.nii.gz"


def raw_path(run: SegmentRun, case: Case) -> Path:
    """Where a case's prediction lies as the network made it."""
    return run.predictions / "raw" / f"{case.id}.nii.gz"


def _key_path(run: SegmentRun, case: Case) -> Path:
    return run.predictions / "raw" / f"{case.id}.json"


def _predict_case(run: SegmentRun, model: Model[ModelSpec], case: Case) -> None:
    section = run.config.predict
    image, _ = read_case(replace(case, mask=None), classes=run.data_set.classes)
    # What an earlier postprocess decided does not count here.
    plain = Model(replace(model.spec, keep_largest=()), model.networks)
    labels = segment_volume(plain, image, overlap=section.overlap, mirror_axes=section.mirror_axes)
    for made_of_another in (prediction_path(run, case), _key_path(run, case)):
        made_of_another.unlink(missing_ok=True)
    write_volume(labels, raw_path(run, case))
    write_json(_key_path(run, case), prediction_key(run, case, model.spec))


def _stands(run: SegmentRun, spec: ModelSpec, case: Case) -> bool:
    if not raw_path(run, case).exists():
        return False
    found = read_json(_key_path(run, case), default="")
    return bool(found == prediction_key(run, case, spec))

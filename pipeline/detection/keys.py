"""Keys of detection: what each result was made from; see pipeline/keys.py."""

from __future__ import annotations

from pipeline.files import hash_code, hash_values
from pipeline.keys import facts_key, learned_from, learning_fields, read_plan, weights_key
from pipeline.run import DetectRun
from volumetric.cases import Case
from volumetric.spec import DetectorSpec

_UNLEARNED = ("cache_gb", "validation_patches", "batch_size")  # the plan's batch size counts
_LEARNING = (
    *("augment", "boxes", "dataset", "detection_loss", "learning"),
    *("models", "networks", "objects", "spec", "transfer"),
)
_FINDING = (
    *("boxes", "inference", "intensity", "interpolate", "io"),
    *("linking", "models", "networks", "objects", "preprocess"),
)


def training_key(run: DetectRun, fold: int) -> str:
    """Of the prepared cases outside the fold, the network, the settings and the code."""
    plan = read_plan(run)
    settings = learning_fields(run, but=_UNLEARNED)
    choosing: list[object] = []
    if run.config.train.patience:  # what is found on held-out patches says when to stop
        choosing = [
            run.config.predict.model_dump(mode="json"),
            hash_code("inference", "linking", "metrics"),
        ]
    return hash_values(
        choosing,
        learned_from(run, fold),
        [
            run.config.model.kind,
            run.config.model.head_features,
            list(run.data_set.classes.values()),
            plan,
            run.config.model.encoder,
            run.config.model.weights,
            weights_key(run, fold),
        ],
        [settings, run.config.seed],
        hash_code(*_LEARNING),
    )


def prediction_key(run: DetectRun, case: Case, spec: DetectorSpec) -> str:
    """Of the weights, the case's facts, the prediction's settings and the code."""
    weights = spec.folds[str(case.fold)]["weights_sha256"]
    section = run.config.predict.model_dump(mode="json")
    return hash_values(weights, facts_key(run, case), section, hash_code(*_FINDING))

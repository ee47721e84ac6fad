"""Keys of segmentation: what each result was made from; see pipeline/keys.py."""

from __future__ import annotations

from pipeline.files import hash_code, hash_values
from pipeline.keys import (
    facts_key,
    learned_from,
    learning_fields,
    read_plan,
    weights_key,
)
from pipeline.run import SegmentRun
from volumetric.cases import Case
from volumetric.spec import ModelSpec

_LEARNING = (
    *("augment", "dataset", "learning", "losses"),
    *("models", "networks", "spec", "transfer"),
)
_UNLEARNED = ("cache_gb", "validation_cases", "batch_size")  # the plan's batch size counts


def training_key(run: SegmentRun, fold: int) -> str:
    """Of the prepared cases outside the fold, the network, the settings and the code."""
    plan = read_plan(run)
    settings = learning_fields(run, but=_UNLEARNED)
    model = run.config.model
    network = [plan[name] for name in ("patch_size", "features", "strides", "kernels")]
    network += [
        plan.get("slice_axis"),
        model.encoder,
        None if model.pretrained else model.weights,
        weights_key(run, fold),
    ]
    return hash_values(
        learned_from(run, fold),
        [model.kind, run.data_set.classes, network, plan["batch_size"]],
        [settings, run.config.seed],
        hash_code(*_LEARNING),
    )


def prediction_key(run: SegmentRun, case: Case, spec: ModelSpec) -> str:
    """Of the weights, the case's facts, the prediction's settings and the code."""
    section = run.config.predict
    weights = spec.folds[str(case.fold)]["weights_sha256"]
    code = hash_code("preprocess", "intensity", "interpolate", "inference", "instances", "io")
    return hash_values(weights, facts_key(run, case), section.overlap, section.mirror_axes, code)

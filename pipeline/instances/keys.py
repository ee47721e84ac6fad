"""Keys of telling objects apart: what each result was made from; see pipeline/keys.py."""

from __future__ import annotations

from pipeline.files import hash_code, hash_values
from pipeline.keys import facts_key, learned_from, learning_fields, read_plan
from pipeline.run import InstancesRun
from volumetric.cases import Case
from volumetric.spec import ModelSpec

_UNLEARNED = ("cache_gb", "validation_cases", "batch_size")  # the plan's batch size counts
_LEARNING = (
    *("augment", "dataset", "learning", "losses"),
    *("models", "networks", "spec", "splitting", "transfer"),
)
_SPLITTING = (
    *("preprocess", "intensity", "interpolate", "inference", "instances", "io"),
    "splitting",
)


def training_key(run: InstancesRun, fold: int) -> str:
    """Of the prepared cases outside the fold, the network, the settings and the code."""
    plan = read_plan(run)
    settings = learning_fields(run, but=_UNLEARNED)
    network = [plan[name] for name in ("patch_size", "features", "strides", "kernels")]
    choosing: list[object] = []
    if run.config.train.patience:  # how held-out patches are split says when to stop
        how = [plan["apart_mm"], plan["least_voxels"]]
        choosing = [how, hash_code("instances", "metrics")]
    return hash_values(
        choosing,
        learned_from(run, fold),
        [run.config.model.kind, network, plan["batch_size"], settings, run.config.seed],
        hash_code(*_LEARNING),
    )


def prediction_key(run: InstancesRun, case: Case, spec: ModelSpec) -> str:
    """Of the weights, the case's facts, the prediction's settings and the code."""
    plan = read_plan(run)
    weights = spec.folds[str(case.fold)]["weights_sha256"]
    how = [run.config.predict.overlap, plan["apart_mm"], plan["least_voxels"]]
    return hash_values(weights, facts_key(run, case), how, hash_code(*_SPLITTING))

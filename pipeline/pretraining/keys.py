"""Keys of pretraining: what each result was made from; see pipeline/keys.py."""

from __future__ import annotations

from pipeline.files import hash_code, hash_values
from pipeline.keys import learned_from, learning_fields, read_plan
from pipeline.run import PretrainRun

_UNLEARNED = ("cache_gb", "validation_cases", "batch_size")  # the plan's batch size counts


def training_key(run: PretrainRun, fold: int) -> str:
    """Of the prepared cases outside the fold, the network, the settings and the code."""
    plan = read_plan(run)
    settings = learning_fields(run, but=_UNLEARNED)
    network = [plan[name] for name in ("patch_size", "features", "strides", "kernels")]
    return hash_values(
        learned_from(run, fold),
        [run.config.model.kind, network, plan["batch_size"], settings, run.config.seed],
        hash_code(
            "augment", "dataset", "learning", "masking", "models", "networks", "spec", "transfer"
        ),
    )

"""Keys of pretraining: what each result was made from; see pipeline/keys.py."""

from __future__ import annotations

from pipeline.files import hash_code, hash_values
from pipeline.keys import prepared_key, read_plan
from pipeline.run import PretrainRun

_UNLEARNED = ("cache_gb", "validation_cases", "batch_size")  # the plan's batch size counts


def training_key(run: PretrainRun, fold: int) -> str:
    """Of the prepared cases outside the fold, the network, the settings and the code."""
    plan = read_plan(run)
    settings = run.config.train.model_dump(mode="json")
    settings = {name: value for name, value in settings.items() if name not in _UNLEARNED}
    cases = run.labelled_cases()
    # With patience, the held-out cases decide when to stop.
    seen = cases if run.config.train.patience else [case for case in cases if case.fold != fold]
    network = [plan[name] for name in ("patch_size", "features", "strides", "kernels")]
    return hash_values(
        [(case.id, case.fold == fold, prepared_key(run, case)) for case in seen],
        [run.config.model.kind, network, plan["batch_size"], settings, run.config.seed],
        hash_code(
            "augment", "dataset", "learning", "masking", "models", "networks", "spec", "transfer"
        ),
    )

"""Keys of pretraining: what each result was made from; see pipeline/keys.py."""

from __future__ import annotations

from pipeline.classification.keys import prepared_key
from pipeline.files import hash_code, hash_values
from pipeline.keys import learned_from, learning_fields, read_plan, weights_key
from pipeline.run import PretrainClipsRun, PretrainRun

_UNLEARNED = ("cache_gb", "validation_cases", "batch_size")  # the plan's batch size counts
_UNLEARNED_CLIPS = ("cache_gb", "validation_cases")


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


def clips_key(run: PretrainClipsRun, fold: int) -> str:
    """The same, of clips."""
    cases = run.labelled_cases()
    seen = cases if run.config.train.patience else [case for case in cases if case.fold != fold]
    return hash_values(
        [(case.id, case.fold == fold, prepared_key(run, case)) for case in seen],
        [run.config.model.model_dump(mode="json"), weights_key(run, fold)],
        [learning_fields(run, but=_UNLEARNED_CLIPS), run.config.seed, run.data_set.sides_matter],
        hash_code(
            *("clips", "clip_augment", "clip_input", "inference/clips", "labelled", "learning"),
            *("models", "networks", "pacing", "spec", "transfer"),
        ),
    )

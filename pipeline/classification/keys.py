"""Keys of classification: what each result was made from; see pipeline/keys.py."""

from __future__ import annotations

from pipeline.classification.augmentation import mirror_chances
from pipeline.files import hash_code, hash_values
from pipeline.keys import facts_key, learning_fields, read_plan, weights_key
from pipeline.run import LabelRun, PretrainClipsRun
from volumetric.cases import Case
from volumetric.spec import ClassifierSpec, ScanClassifierSpec

_UNLEARNED = ("cache_gb",)
_SHOWING = (
    *("clips", "clip_augment", "clip_input", "models", "networks", "spec"),
    *("inference/clips", "inference/scans"),
)
_LEARNING = (
    *("augment", "cases", "clip_dataset", "features", "folds", "labelled"),
    *("learning", "losses", "transfer"),
)
_PLANNED = {
    "classify": ("rate", "short_side"),
    "pretrain_clips": ("rate", "short_side"),
    "classify_scans": ("spacing_mm", "intensity", "shape"),
}


def prepared_key(run: LabelRun | PretrainClipsRun, case: Case) -> str:
    """Of the case's facts and of how the plan prepares it."""
    plan = read_plan(run)
    return hash_values(facts_key(run, case), *(plan[name] for name in _PLANNED[run.config.task]))


def training_key(run: LabelRun, fold: int) -> str:
    """Of the prepared cases outside the fold, the network, the settings and the code."""
    settings = learning_fields(run, but=_UNLEARNED)
    cases = run.labelled_cases()
    # With patience, the held-out cases decide when to stop.
    seen = cases if run.config.train.patience else [case for case in cases if case.fold != fold]
    return hash_values(
        [
            (case.id, case.subject, case.label, case.fold == fold, prepared_key(run, case))
            for case in seen
        ],
        [
            run.config.model.model_dump(mode="json"),
            weights_key(run, fold),
            read_plan(run),
        ],
        [run.data_set.labels, run.data_set.multi_label, sorted(mirror_chances(run).items())],
        [settings, run.config.seed],
        hash_code(*_SHOWING, *_LEARNING),
    )


def trunk_key(run: LabelRun, fold: int) -> str:
    """Of the trunk of a fold, which a model folder has of its own, what it is shown, and the code.

    Raises:
        UnreadableFileError, ConfigError: as `weights_key`.
    """
    model = run.config.model.model_dump(mode="json")
    mirror = sorted(mirror_chances(run))
    return hash_values(model, weights_key(run, fold), mirror, hash_code(*_SHOWING, "features"))


def prediction_key(run: LabelRun, case: Case, spec: ClassifierSpec | ScanClassifierSpec) -> str:
    """Of the weights, the prepared case, the test protocol and the code."""
    weights = spec.folds[str(case.fold)]["weights_sha256"]
    protocol = run.config.predict.model_dump(mode="json")
    code = hash_code("clips", "clip_augment", "clip_input", "inference")
    return hash_values(weights, prepared_key(run, case), protocol, code)

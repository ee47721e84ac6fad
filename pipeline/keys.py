"""Keys: what each result was made from. Who writes a result notes its key, who reads compares.

Each key holds the one before it: a case's facts → its prepared file → the weights that learned
from it → the predictions of those weights. A result whose key does not fit is made again or
refused, never mixed in.
"""

from __future__ import annotations

from typing import Any

from pipeline.files import hash_code, hash_files, hash_values, read_json
from pipeline.run import Run
from volumetric.cases import Case
from volumetric.errors import OutputError, UnreadableFileError
from volumetric.model import ModelSpec

_MEASURING = ("volume", "io", "check", "preprocess", "interpolate", "fingerprint")
_UNLEARNED = ("cache_gb", "validation_cases", "batch_size")  # the plan's batch size counts


def case_key(run: Run, case: Case) -> str:
    """Of the case's bytes as they are now, the manifest, and the code that reads and measures.

    Raises:
        UnreadableFileError: a file is missing.
    """
    for path in (case.image, case.mask):
        if path is not None and not path.exists():
            raise UnreadableFileError(
                "missing-file",
                "does not exist",
                "Check the manifest's path, and --root",
                path=path,
            )
    code = hash_code(*_MEASURING)
    about = [case.series, run.data_set.classes, run.data_set.modality]
    return hash_values(hash_files([case.image, case.mask]), about, code)


def facts_key(run: Run, case: Case) -> str | None:
    """Of the case as `prepare` last saw it; None where its facts are missing or damaged."""
    try:
        key: str = read_json(run.facts(case))["key"]
    except (OutputError, KeyError, TypeError):
        return None
    return key


def prepared_key(run: Run, case: Case) -> str:
    """Of the case's facts and of how the plan prepares it."""
    plan = _plan(run)
    return hash_values(facts_key(run, case), plan["spacing_mm"], plan["intensity"])


def training_key(run: Run, fold: int) -> str:
    """Of the prepared cases outside the fold, the network, the settings and the code."""
    plan = _plan(run)
    settings = run.config.train.model_dump(mode="json")
    settings = {name: value for name, value in settings.items() if name not in _UNLEARNED}
    cases = run.labelled_cases()
    # With patience, the held-out cases decide when to stop.
    seen = cases if run.config.train.patience else [case for case in cases if case.fold != fold]
    network = [plan[name] for name in ("patch_size", "features", "strides", "kernels")]
    return hash_values(
        [(case.id, case.fold == fold, prepared_key(run, case)) for case in seen],
        [run.config.model.kind, run.data_set.classes, network, plan["batch_size"]],
        [settings, run.config.seed],
        hash_code("augment", "dataset", "learning", "losses", "models"),
    )


def prediction_key(run: Run, case: Case, spec: ModelSpec) -> str:
    """Of the weights, the case's facts, the prediction's settings and the code."""
    section = run.config.predict
    weights = spec.folds[str(case.fold)]["weights_sha256"]
    code = hash_code("preprocess", "interpolate", "inference", "io")
    return hash_values(weights, facts_key(run, case), section.overlap, section.mirror_axes, code)


def _plan(run: Run) -> dict[str, Any]:
    plan: dict[str, Any] = read_json(run.folder / "plan.json")["values"]
    return plan

"""Keys: what each result was made from. Who writes a result notes its key, who reads compares.

Each key holds the one before it: a case's facts → its prepared file → the weights that learned
from it → the predictions of those weights. A result whose key does not fit is made again or
refused, never mixed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.files import hash_code, hash_files, hash_values, read_json
from pipeline.run import WITHOUT_LABELS, Run
from volumetric.cases import Case
from volumetric.errors import ConfigError, OutputError, UnreadableFileError
from volumetric.io.prepared import open_prepared
from volumetric.model import load_any_spec
from volumetric.network_names import weights_path
from volumetric.spec import AnySpec

Folds = Mapping[str, Mapping[str, Any]]
"""What a model folder says of the weights of each fold."""

_MEASURING = (
    *("volume", "io", "check", "fingerprint"),
    *("preprocess", "intensity", "interpolate"),
)
_FINDING = ("boxes", "instances", "objects")  # what objects a case has


def case_key(run: Run[Any], case: Case) -> str:
    """Of the case's bytes as they are now, the manifest, and the code that reads and measures.

    Raises:
        UnreadableFileError: a file is missing.
    """
    if run.config.task in WITHOUT_LABELS:  # labels do not count, not even whether there are any
        case = replace(case, mask=None, boxes=None, label=None)
    for path in (case.image, case.mask, case.boxes):
        if path is not None and not path.exists():
            raise UnreadableFileError(
                "missing-file",
                "does not exist",
                "Check the manifest's path, and --root",
                path=path,
            )
    code = hash_code(*_MEASURING)
    if run.config.task in ("detect", "instances"):
        code += hash_code(*_FINDING)
    data_set = run.data_set
    if run.config.task in ("detect", "instances"):
        code += str(data_set.instances)
    about = [
        *(case.series, case.label),
        *(data_set.classes, data_set.modality, data_set.labels, data_set.multi_label),
    ]
    return hash_values(hash_files([case.image, case.mask, case.boxes]), about, code)


def facts_key(run: Run[Any], case: Case) -> str | None:
    """Of the case as `prepare` last saw it; None where its facts are missing or damaged."""
    try:
        key: str = read_json(run.facts(case))["key"]
    except (OutputError, KeyError, TypeError):
        return None
    return key


def prepared_key(run: Run[Any], case: Case) -> str:
    """Of a scan's facts and of how the plan prepares it, for tasks that learn from patches."""
    plan = read_plan(run)
    return hash_values(facts_key(run, case), plan["spacing_mm"], plan["intensity"])


def learned_from(run: Run[Any], fold: int) -> list[tuple[str, bool, str]]:
    """The cases that training in a fold sees: id, whether held out, and how it was prepared.

    With patience the held-out ones are among them: they decide when to stop.
    """
    cases = run.labelled_cases()
    seen = cases if run.config.train.patience else [case for case in cases if case.fold != fold]
    return [(case.id, case.fold == fold, prepared_key(run, case)) for case in seen]


def learning_fields(run: Run[Any], *, but: Sequence[str]) -> dict[str, Any]:
    """How a network learns, as the configuration says it, without what changes no weight."""
    settings = run.config.train.model_dump(mode="json")
    return {name: value for name, value in settings.items() if name not in but}


def source_fold(run: Run[Any], folder: Path, spec: AnySpec, fold: int) -> str:
    """Which fold's weights of a model folder a fold starts from.

    Of a data set of the same name one that held out, too, what is held out now (older folders do
    not tell: the fold of that number); of another any, the first.

    Raises:
        ConfigError: there is none.
    """
    names = sorted(spec.folds, key=int)
    if spec.about.get("data_set") != run.data_set.name:
        fitting = names
    else:
        ours = {case.id for case in run.cases if case.fold == fold}
        fitting = [
            name
            for name in names
            if ours <= set(spec.folds[name].get("held_out", ours if name == str(fold) else ()))
        ]
    if not fitting:
        raise ConfigError(
            "no-such-fold",
            f"has folds {names}, of which none held out all cases that fold {fold} holds out"
            if names
            else "holds no weights",
            "Train it with the same cases held out, too",
            path=folder,
        )
    return str(fold) if str(fold) in fitting else fitting[0]


def weights_key(run: Run[Any], fold: int) -> str | None:
    """Of what the network of a fold starts from, a file or a model folder's fold; None: nothing.

    Raises:
        UnreadableFileError: it is missing.
        ConfigError: the folder has no weights for this fold.
    """
    path = weights_path(run.config.model.weights)
    if path is None:
        return None
    if not path.exists():
        raise UnreadableFileError(
            "missing-file", "does not exist", "Check model.weights", path=path
        )
    if path.is_file():
        return hash_files([path])
    spec = load_any_spec(path)
    return str(spec.folds[source_fold(run, path, spec, fold)]["weights_sha256"])


def read_plan(run: Run[Any]) -> dict[str, Any]:
    """What the plan chose, by name."""
    plan: dict[str, Any] = read_json(run.folder / "plan.json")["values"]
    return plan


def standing_key(prepared: Path) -> str | None:
    """What a prepared case was made from; None where there is none, or it is damaged."""
    try:
        key: str = open_prepared(prepared).facts["key"]
    except UnreadableFileError:
        return None
    return key


def refuse_stale(run: Run[Any], folds: Folds, fold: int, *, key: str) -> None:
    """Refuse weights that were not learned with the present settings and data.

    Raises:
        OutputError: they were not.
    """
    if folds[str(fold)]["key"] != key:
        raise OutputError(
            "stale-model",
            f"fold {fold} was trained on other data or with other settings",
            "Run `volumetric train` first",
            path=run.model,
        )


def cases_of_sound_folds(
    run: Run[Any], folds: Folds, *, training_key: Callable[[int], str]
) -> list[Case]:
    """The cases to predict whose fold's weights stand, learned with what there is now."""
    sound = {fold for fold in folds if folds[fold]["key"] == training_key(int(fold))}
    return [case for case in run.usable_cases("prepare", "predict") if str(case.fold) in sound]

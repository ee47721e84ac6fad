"""What the training of every task that learns from patches does alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from pipeline.device import describe_device, find_device
from pipeline.files import read_json
from pipeline.keys import prepared_key, read_plan
from pipeline.progress import track_epochs
from pipeline.provenance import record, record_time
from pipeline.run import Run, describe_origin
from volumetric.cases import Case
from volumetric.errors import ManifestError, OutputError
from volumetric.io.prepared import Prepared, open_prepared
from volumetric.learning import Lesson, Training, fit
from volumetric.model import save_fold
from volumetric.spec import AnySpec

_Held = TypeVar("_Held", Case, Prepared)


@dataclass(frozen=True)
class Course:
    """What is learned in a fold.

    Attributes:
        spec: of the network.
        start: makes it, with fresh weights from torch's global generator.
        lesson: what it learns.
    """

    spec: AnySpec
    start: Callable[[], nn.Module]
    lesson: Lesson


def learn_fold(
    run: Run[Any],
    fold: int,
    make: Callable[[torch.device], Course],
    *,
    training_key: Callable[[], str],
) -> None:
    """Write folds/<fold>/{last.ckpt,history.csv} and model/fold_<fold>.safetensors.

    Goes on from the last epoch where an earlier run with the same settings stopped.

    Raises:
        TrainingError: the loss is not finite any more.
        DeviceError: the device is not there.
    """
    device = find_device(run.config.device)
    with record_time(run.folder, f"train fold {fold}"):
        record(run.folder, device=describe_device(device))
        course, settings = make(device), training_settings(run)
        torch.manual_seed(settings.seed)
        network = course.start().to(device)
        key = training_key()
        rows = fit(network, course.lesson, settings=settings, folder=run.fold(fold), key=key)
        track_epochs(rows, settings, fold=fold)
        facts = {"key": key, "held_out": held_out_ids(run, fold)}
        save_fold(run.model, fold, network, spec=course.spec, facts=facts)


def split_fold(run: Run[Any], fold: int, *, what: str = "case") -> tuple[list[Case], list[Case]]:
    """The cases to learn from in a fold, and those held out; `what` is asked of a case, in words.

    Raises:
        ManifestError: none is left to learn from.
    """
    cases = run.labelled_cases()
    learned = [case for case in cases if case.fold != fold]
    if not learned:
        raise ManifestError(
            "nothing-to-learn",
            f"no usable {what} lies outside fold {fold}",
            "Add cases, or see quarantine.json for those set apart",
            path=run.manifest,
        )
    return learned, [case for case in cases if case.fold == fold]


def spread_over(cases: Sequence[_Held], most: int) -> list[_Held]:
    """At most so many of the cases, evenly over their order: those that are looked at meanwhile."""
    return list(cases)[:: max(1, -(-len(cases) // most))]


def held_out_ids(run: Run[Any], fold: int) -> list[str]:
    """What a model folder says that a fold's network has not learned from: ids, sorted."""
    return sorted(case.id for case in run.cases if case.fold == fold)


def describe_network(run: Run[Any]) -> dict[str, Any]:
    """What the specs of all networks of patches say alike, by the plan and the fingerprint."""
    plan = read_plan(run)
    fingerprint = read_json(run.folder / "fingerprint.json")
    return {
        "kind": run.config.model.kind,
        "n_channels": fingerprint["n_channels"],
        "features": plan["features"],
        "strides": [tuple(stride) for stride in plan["strides"]],
        "kernels": [tuple(kernel) for kernel in plan["kernels"]],
        "patch_size": tuple(plan["patch_size"]),
        "spacing_mm": tuple(plan["spacing_mm"]),
        "intensity": plan["intensity"],
        "fingerprint": fingerprint,
        "about": describe_origin(run),
    }


def training_settings(run: Run[Any]) -> Training:
    """How the network learns, as the configuration says it."""
    section = run.config.train.model_dump()
    chosen = {name: section[name] for name in Training.__dataclass_fields__ if name in section}
    return Training(**chosen, seed=run.config.seed)


def open_cases(run: Run[Any], cases: Sequence[Case]) -> list[Prepared]:
    """The prepared cases.

    Raises:
        OutputError: one was prepared for another plan, or from other bytes.
    """
    prepared = [open_prepared(run.prepared / f"{case.id}.safetensors") for case in cases]
    for case, found in zip(cases, prepared, strict=True):
        if found.facts["key"] != prepared_key(run, case):
            raise OutputError(
                "stale-prepared",
                "was prepared for another plan, or from other bytes",
                "Run `volumetric prepare` to its end first",
                path=found.path,
            )
    return prepared

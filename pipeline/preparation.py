"""Preparation: the way from raw files to network input that every task goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.keys import standing_key
from pipeline.measure import Facts, Known, Measured, measure_cases
from pipeline.progress import Each, each_in_threads, one_core_each
from pipeline.provenance import record_time
from pipeline.run import LabelRun, Run, quarantine
from volumetric.cases import Case
from volumetric.check.labels import split_label
from volumetric.findings import Finding
from volumetric.plan import choose_intensity

SET = "set in the configuration"
Choices = dict[str, tuple[Any, str]]
"""Values by name, each with its reason."""


@dataclass(frozen=True)
class Preparation:
    """What a task does at each step.

    Attributes:
        measure: look at one case.
        compare: look at the sound ones side by side.
        choose: write fingerprint.json and plan.json.
        key: what a case's network input is made from, by that plan.
        write: make one case's network input, in a file and with a key that are given.
    """

    measure: Callable[[Case], Measured]
    compare: Callable[[Known], list[Finding]]
    choose: Callable[[Facts], None]
    key: Callable[[Case], str]
    write: Callable[[Case, Path, str], None]


def prepare_cases(run: Run[Any], steps: Preparation, *, each: Each | None = None) -> None:
    """Go through the steps; a case with an error goes to quarantine, the rest goes on.

    What was prepared with the same key is left as it is.

    Raises:
        ManifestError: no case is left.
    """
    workers = run.config.prepare.workers
    each = each or each_in_threads(workers)

    def write(case: Case) -> None:
        path, key = run.prepared / f"{case.id}.safetensors", steps.key(case)
        if standing_key(path) != key:
            steps.write(case, path, key)

    with record_time(run.folder, "prepare"), one_core_each(workers):
        steps.choose(measure_cases(run, steps.measure, compare=steps.compare, each=each))
        for case, error in each(write, run.usable_cases("prepare"), "prepare"):
            if error is not None:
                quarantine(run, "prepare", case, error)


def describe_choices(choices: Choices) -> dict[str, dict[str, Any]]:
    """What plan.json holds: {"values": {name: value}, "why": {name: reason}}."""
    return {
        "values": {name: value for name, (value, _) in choices.items()},
        "why": {name: why for name, (_, why) in choices.items()},
    }


def choose_scheme(fingerprint: Mapping[str, Any], wanted: str | None) -> tuple[Any, str]:
    """Intensity scheme and why: the one that the configuration wants, or the one that suits."""
    if wanted is None:
        return choose_intensity(fingerprint)
    if wanted == "window":
        return choose_intensity({**fingerprint, "modality": "CT"})[0], SET
    return {"kind": wanted}, SET


def count_labels(run: LabelRun) -> dict[str, int]:
    """How many usable cases have each label."""
    cases = [case for case in run.usable_cases("prepare") if case.label is not None]
    found = Counter(
        name
        for case in cases
        for name in (split_label(str(case.label)) if run.data_set.multi_label else [case.label])
    )
    return dict.fromkeys(run.data_set.labels, 0) | {str(name): n for name, n in found.items()}

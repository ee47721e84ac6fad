"""What predicting held-out cases is alike in every task that looks at raw scans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.keys import Folds, cases_of_sound_folds
from pipeline.progress import each_in_threads
from pipeline.run import Run, forget, quarantine
from volumetric.cases import Case

Stands = Callable[[Case], bool]


def predict_held_out(
    run: Run[Any], fold: int, predict: Callable[[Case], None], *, stands: Stands
) -> None:
    """Predict what is held out in a fold and does not stand yet; set the bad cases apart."""
    forget(run, "predict", [case for case in run.cases if case.fold == fold])
    cases = [case for case in run.usable_cases("prepare", "predict") if case.fold == fold]
    cases = [case for case in cases if not stands(case)]
    each = each_in_threads(1)  # the network itself uses every core
    for case, error in each(predict, cases, "predict"):
        if error is not None:
            quarantine(run, "predict", case, error)


def standing_cases(
    run: Run[Any], folds: Folds, *, training_key: Callable[[int], str], stands: Stands
) -> list[Case]:
    """The cases whose prediction stands, made by weights that stand themselves."""
    trained = cases_of_sound_folds(run, folds, training_key=training_key)
    return [case for case in trained if stands(case)]

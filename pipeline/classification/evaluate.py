"""Evaluate: every case's probabilities against its label, every metric with its interval."""

from __future__ import annotations

from typing import Any

from pipeline.classification.answers import Answers, describe_answers, write_scores
from pipeline.classification.medium import find_medium
from pipeline.classification.predict import predicted_cases, prediction_path
from pipeline.files import read_json, write_json
from pipeline.provenance import record_time
from pipeline.run import LabelRun, forget
from volumetric.errors import OutputError
from volumetric.metrics.resampling import Resampling


def evaluate(run: LabelRun) -> None:
    """Write results.json and scores.csv over all cases that have a label and a prediction.

    Raises:
        OutputError: nothing has been predicted.
    """
    with record_time(run.folder, "evaluate"):
        forget(run, "evaluate", run.cases)
        scored = [(case, read_json(prediction_path(run, case))) for case in predicted_cases(run)]
        if not scored:
            raise OutputError(
                "stage-missing",
                "holds no prediction",
                "Run `volumetric predict` first",
                path=run.predictions,
            )
        section = run.config.evaluate
        answers = Answers(
            scored,
            run.data_set.labels,
            run.data_set.multi_label,
            frozenset(case.id for case, _ in scored if run.has_truth(case)),
            Resampling(section.resamples, run.config.seed, section.confidence),
        )
        write_json(run.folder / "results.json", _results(run, answers))
        write_scores(run.folder / "scores.csv", answers)


def _results(run: LabelRun, answers: Answers) -> dict[str, Any]:
    # Without its protocol a number says little.
    protocol = find_medium(run).describe_protocol(run)
    views = {len(found["views"]) for _, found in answers.scored}
    assert views == {protocol["views"] * protocol["crops"] * protocol["mirrored"]}, views
    return {
        "task": run.config.task,
        "protocol": protocol,
        **describe_answers(answers),
        "provenance": read_json(run.folder / "provenance.json"),
    }

"""The stages of a run, by its task: what the command line and the flow call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.run import Run


@dataclass(frozen=True)
class Stages:
    """What a task's run goes through.

    Attributes:
        prepare: check and measure every case, choose a plan, write network input.
        train: learn from the cases outside a fold.
        predict: the cases held out in a fold.
        postprocess: once all folds are predicted, what is decided over all of them.
        evaluate: score what was predicted.
        report: write the page and return its path.
    """

    prepare: Callable[..., None]
    train: Callable[[Run[Any], int], None]
    predict: Callable[[Run[Any], int], None]
    postprocess: Callable[[Run[Any]], None]
    evaluate: Callable[[Run[Any]], None]
    report: Callable[[Run[Any]], Path]


def find_stages(run: Run[Any]) -> Stages:
    """The stages of the run's task; what they need is imported now."""
    match run.config.task:
        case "segment":
            return _segmentation()
        case "detect":
            return _detection()
        case "instances":
            return _instances()
        case "pretrain":
            return _pretraining()
        case "pretrain_clips":
            return _pretraining_on_clips()
        case task:
            return _classification(task)


def _segmentation() -> Stages:
    from pipeline.report import write_report
    from pipeline.segmentation.evaluate import evaluate
    from pipeline.segmentation.postprocess import postprocess
    from pipeline.segmentation.predict import predict
    from pipeline.segmentation.prepare import prepare
    from pipeline.segmentation.train import train

    def report(run: Run[Any]) -> Path:
        return write_report(run.folder, run.usable_cases(), classes=run.data_set.classes)

    return Stages(prepare, train, predict, postprocess, evaluate, report)


def _detection() -> Stages:
    from pipeline.detection.evaluate import evaluate
    from pipeline.detection.predict import predict
    from pipeline.detection.prepare import prepare
    from pipeline.detection.train import train

    return Stages(prepare, train, predict, _nothing, evaluate, _report_objects)


def _instances() -> Stages:
    from pipeline.detection.prepare import prepare
    from pipeline.instances.evaluate import evaluate
    from pipeline.instances.predict import predict
    from pipeline.instances.train import train

    return Stages(prepare, train, predict, _nothing, evaluate, _report_objects)


def _report_objects(run: Run[Any]) -> Path:
    from pipeline.report.detection import write_detection_report

    return write_detection_report(run.folder, run.usable_cases(), classes=run.data_set.classes)


def _pretraining() -> Stages:
    from pipeline.pretraining.evaluate import evaluate
    from pipeline.pretraining.train import train
    from pipeline.report import write_report
    from pipeline.segmentation.prepare import prepare

    def report(run: Run[Any]) -> Path:
        return write_report(run.folder, [], classes={})

    return Stages(prepare, train, _predict_nothing, _nothing, evaluate, report)


def _pretraining_on_clips() -> Stages:
    from pipeline.classification.prepare_clips import prepare
    from pipeline.pretraining.clips import evaluate, train
    from pipeline.report import write_report

    def report(run: Run[Any]) -> Path:
        return write_report(run.folder, [], classes={})

    return Stages(prepare, train, _predict_nothing, _nothing, evaluate, report)


def _predict_nothing(run: Run[Any], fold: int) -> None:
    """Nothing is asked of cases without labels but what `evaluate` does."""


def _nothing(run: Run[Any]) -> None:
    """Windows and views are put together where they are predicted."""


def _classification(task: str) -> Stages:
    from pipeline.classification import prepare_clips, prepare_scans
    from pipeline.classification.evaluate import evaluate
    from pipeline.classification.explain import explain_cases
    from pipeline.classification.predict import predict
    from pipeline.classification.train import train
    from pipeline.report.classification import cases_to_picture, write_classification_report

    def report(run: Run[Any]) -> Path:
        explain_cases(run, cases_to_picture(run.folder, run.usable_cases()))
        return write_classification_report(run.folder, run.usable_cases())

    prepare = prepare_clips.prepare if task == "classify" else prepare_scans.prepare
    return Stages(prepare, train, predict, _nothing, evaluate, report)

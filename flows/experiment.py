"""The main job: prepare, then train and predict each fold, evaluate, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect import Task, flow, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture
from prefect.server.api.server import SubprocessASGIServer
from prefect.task_runners import ThreadPoolTaskRunner

from pipeline.progress import Outcome, attempt, track
from pipeline.run import open_run
from pipeline.stages import find_stages
from volumetric.cases import Case
from volumetric.errors import VolumetricError


def run_experiment(folder: Path) -> Path:
    """The flow with as many cases at a time as the run's configuration says."""
    workers = open_run(folder).config.prepare.workers
    return experiment.with_options(task_runner=ThreadPoolTaskRunner(max_workers=workers))(folder)


def stop_server() -> None:
    """End the temporary server, if there is one; Prefect itself would wait for its answers."""
    for server in list(SubprocessASGIServer._instances.values()):
        server.stop()


@flow(validate_parameters=False, persist_result=False)
def experiment(folder: Path) -> Path:
    """Run every stage of the run in `folder`; return the path of its report."""
    run = open_run(folder)
    find_stages(run).prepare(run, each=each_as_tasks)
    for fold in run.folds():
        train_fold(folder, fold)
        predict_fold(folder, fold)
    evaluate_run(folder)
    return report_run(folder)


def each_as_tasks(
    do: Callable[[Case], None], cases: Sequence[Case], title: str
) -> Iterator[Outcome]:
    """A Prefect task a case; a case that fails is given back with its typed error."""
    run_case = task(
        name=title,
        task_run_name=title + " {case.id}",
        retries=2,
        retry_delay_seconds=1,
        retry_condition_fn=_worth_retrying,
    )(do)
    futures = run_case.map(list(cases))
    pairs = zip(cases, futures, strict=True)
    for case, future in track(pairs, total=len(cases), title=title):
        future.wait()
        yield case, attempt(_result_of(future), case)


def _result_of(future: PrefectFuture[None]) -> Callable[[Case], None]:
    return lambda _: future.result()


def _worth_retrying(_: Task[Any, Any], __: TaskRun, state: State[Any]) -> bool:
    """A typed refusal stays one; a network drive or a full GPU may do better next time."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, VolumetricError) or error.code == "out-of-memory"


@task(task_run_name="train fold {fold}", retries=1, retry_condition_fn=_worth_retrying)
def train_fold(folder: Path, fold: int) -> None:
    """Train one fold; a retry goes on from its last epoch."""
    run = open_run(folder)
    find_stages(run).train(run, fold)


@task(task_run_name="predict fold {fold}", retries=1, retry_condition_fn=_worth_retrying)
def predict_fold(folder: Path, fold: int) -> None:
    """Predict the cases held out in one fold."""
    run = open_run(folder)
    find_stages(run).predict(run, fold)


@task(name="evaluate", retries=1, retry_condition_fn=_worth_retrying)
def evaluate_run(folder: Path) -> None:
    """Postprocess where it helps, and score."""
    run = open_run(folder)
    find_stages(run).postprocess(run)
    find_stages(run).evaluate(run)


@task(name="report", retries=1, retry_condition_fn=_worth_retrying)
def report_run(folder: Path) -> Path:
    """Write the report."""
    run = open_run(folder)
    return find_stages(run).report(run)

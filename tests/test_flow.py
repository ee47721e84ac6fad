"""The flow on Prefect's own test server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.files import read_json
from pipeline.run import create_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Prefect's own server warns of its own affairs
]


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    import flows  # noqa: F401 - switches telemetry off before Prefect is imported

    with prefect_test_harness(server_startup_timeout=120):
        yield


async def _task_runs() -> list[object]:
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        return list(await client.read_task_runs())


def test_a_bad_case_fails_its_task_and_nothing_else(
    server: None, blob_config: RunConfig, tmp_path: Path
) -> None:
    from flows.experiment import experiment

    run = create_run(blob_config, tmp_path / "run")
    bad = run.cases[5]
    bad.image.write_bytes(b"broken")
    report = experiment(run.folder)
    assert report.exists()
    entries = read_json(run.folder / "quarantine.json")
    assert [(entry["id"], entry["code"]) for entry in entries] == [(bad.id, "unreadable-nifti")]
    assert read_json(run.folder / "results.json")["n_cases"] == 4
    runs = {task.name: task for task in asyncio.run(_task_runs())}
    assert runs[f"measure {bad.id}"].state.is_failed()
    assert runs[f"measure {bad.id}"].run_count == 1  # a typed refusal is not tried again
    assert runs["measure blob_0"].state.is_completed()
    assert f"prepare {bad.id}" not in runs
    assert {"train fold 0", "predict fold 0", "evaluate", "report"} <= {
        name.rsplit("-", 1)[0] if name.startswith(("evaluate", "report")) else name for name in runs
    }


def test_what_may_pass_is_tried_again(server: None, blob_config: RunConfig, tmp_path: Path) -> None:
    from prefect import flow

    from flows.experiment import each_as_tasks
    from volumetric.cases import Case

    case = Case("a", "a", None, tmp_path / "a.nii.gz")
    tries: list[str] = []

    def flaky(case: Case) -> None:
        tries.append(case.id)
        if len(tries) < 2:
            raise OSError("the network drive is away")

    @flow
    def try_it() -> list[object]:
        return [error for _, error in each_as_tasks(flaky, [case], "flaky")]

    assert try_it() == [None]
    assert tries == ["a", "a"]


def test_telemetry_is_off() -> None:
    import os

    import flows  # noqa: F401

    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"

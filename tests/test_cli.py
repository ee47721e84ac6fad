"""The command line as a person meets it: in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
import yaml

from tests.test_check import write_ct_slice

COMMANDS = [
    "demo",
    "run",
    "prepare",
    "train",
    "predict",
    "evaluate",
    "report",
    "compare",
    "segment",
    "check",
    "fetch",
    "models",
]


def volumetric(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd or root,
        env={**os.environ, "PYTHONPATH": root},
        timeout=300,
    )


def test_help_lists_every_command_and_imports_no_framework() -> None:
    code = (
        "import sys, contextlib, io\n"
        "sys.argv = ['volumetric', '--help']\n"
        "from pipeline.cli import main\n"
        "text = io.StringIO()\n"
        "with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "print(text.getvalue())\n"
        "heavy = {'torch', 'prefect', 'monai', 'numpy', 'yaml', 'pydantic'}\n"
        "print('HEAVY', sorted(set(sys.modules) & heavy))\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert "HEAVY []" in done.stdout, done.stderr
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = volumetric(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_segment_says_what_it_reads() -> None:
    said = " ".join(volumetric("segment", "--help").stdout.split())
    assert "NIfTI, NRRD, MHA or MGZ" in said
    assert "--series UID" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "hippocampos"], "does not exist"),
        (["run", "hippocampus_cpu", "--set", "train.epohcs=3"], "train.epohcs: no such field"),
        (["run", "hippocampus_cpu", "--set", "epochs"], "has no '='"),
        (["run", "hippocampus_cpu", "--set", "train.epochs=["], "is no YAML value"),
        (["run", "hippocampus_cpu", "--set", "train=3"], "train"),
        (["run", "hippocampus_cpu", "--root", "nowhere"], "is no folder"),
        (["run", "hippocampus_cpu", "--fold", "7"], "fold 7"),
        (["run", "hippocampus_cpu", "--device", "cuda:99"], "cuda:99"),
        (["run", "hippocampus_cpu", "--device", "abacus"], "device"),
        (["run", "hippocampus_cpu", "--out", "pyproject.toml/run"], "cannot be written"),
        (["report", "nowhere"], "holds no run"),
        (["compare", "nowhere", "nowhere/else"], "holds no run"),
        (["segment", "nowhere", "scan.nii.gz", "--out", "x"], "is no model folder"),
        (["check"], "no path was given"),
        (["check", "nowhere"], "does not exist"),
        (["check", "nowhere/at.all"], "is neither a file nor a folder"),
        (["fetch", "nothing"], "does not exist"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2(words: list[str], said: str) -> None:
    done = volumetric(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_stages_by_hand(blob_set: Path, blob_config, tmp_path: Path) -> None:
    """prepare, train, predict, evaluate, report one by one, with one bad case on the way."""
    from pipeline.run import create_run

    out = tmp_path / "run"
    create_run(blob_config, out)
    (blob_set.parent / "images/blob_1.nii.gz").write_bytes(b"broken")
    for stage in ("prepare", "train", "predict", "evaluate", "report"):
        done = volumetric(stage, out)
        assert done.returncode == 1, done.stderr
        assert "quarantined blob_1" in done.stderr
    assert done.stdout.strip() == str(out / "report" / "index.html")
    page = (out / "report" / "index.html").read_text()
    assert "blob_1" in page
    results = json.loads((out / "results.json").read_text())
    assert results["n_cases"] == 3
    _segment_one_series_of_two(out / "model", tmp_path)


def _segment_one_series_of_two(model: Path, tmp_path: Path) -> None:
    for uid in ("1.2.3", "1.2.4"):
        for number in range(4):
            write_ct_slice(tmp_path / f"two/{uid}.{number}.dcm", number, uid)
    words = ("segment", model, tmp_path / "two", "--device", "cpu", "--out")
    done = volumetric(*words, tmp_path / "masks")
    assert done.returncode == 2
    assert "several-series" in (tmp_path / "masks/quarantine.json").read_text()
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("refused two:")]
    assert "1.2.4" in line
    assert "Choose one" in line
    done = volumetric(*words, tmp_path / "masks", "--series", "1.2.4")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "masks/two.nii.gz").exists()


def test_all_that_was_set_apart_is_counted(tmp_path: Path, capsys) -> None:
    from pipeline.cli.ending import finish

    entries = [
        {"id": f"c{n}", "path": "p", "code": "c", "reason": "is bad", "remedy": f"Mend {n}"}
        for n in range(8)
    ]
    (tmp_path / "quarantine.json").write_text(json.dumps(entries))
    with pytest.raises(typer.Exit):
        finish(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "quarantined c0: is bad (p). Mend 0."
    assert lines[5] == "and 3 more"
    assert len(lines) == 7


def test_a_refusal_inside_the_flow_is_one_line_too(
    blob_set: Path, blob_config, tmp_path: Path
) -> None:
    for image in (blob_set.parent / "images").iterdir():
        image.write_bytes(b"broken")
    config = tmp_path / "blobs.yaml"
    config.write_text(yaml.safe_dump(blob_config.model_dump(mode="json")))
    done = volumetric("run", config, "--out", tmp_path / "flow")
    assert done.returncode == 2
    assert "every case was refused" in done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("measure:")]
    assert len(lines) == 1, done.stderr


def test_damaged_run_files_are_named(blob_config, tmp_path: Path) -> None:
    from pipeline.run import create_run

    run = create_run(blob_config, tmp_path / "run")
    (run.folder / "plan.json").write_text("{")
    (run.folder / "fingerprint.json").write_text("{}")
    done = volumetric("train", run.folder)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "plan.json" in done.stderr
    (run.folder / "config.yaml").write_text("a: [")
    done = volumetric("prepare", run.folder)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)


def test_fetch_takes_a_local_folder(blob_set: Path) -> None:
    done = volumetric("fetch", blob_set, "--from", blob_set.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(blob_set.parent)


def test_models_are_listed_with_their_size() -> None:
    done = volumetric("models", "segmentation")
    assert done.returncode == 0
    assert "residual_unet" in done.stdout
    assert "GFLOPs" in done.stdout
    done = volumetric("models", "recognition")
    assert (done.returncode, done.stdout) == (2, "")
    assert "segmentation, volumes, detection, slices" in done.stderr


@pytest.mark.slow
def test_run_goes_through_prefect_to_a_report(blob_config, tmp_path: Path) -> None:
    config = tmp_path / "blobs.yaml"
    config.write_text(yaml.safe_dump(blob_config.model_dump(mode="json")))
    out = tmp_path / "flow"
    done = volumetric("run", config, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("index.html")
    assert "Prefect" not in done.stderr
    assert (out / "results.json").exists()


@pytest.mark.slow
def test_control_c_ends_a_run_and_leaves_nothing_behind(blob_config, tmp_path: Path) -> None:
    """As a terminal does it: the whole process group is signalled, Prefect's server with it."""
    values = blob_config.model_dump(mode="json")
    values["train"] |= {"epochs": 5000, "steps_per_epoch": 5}
    config = tmp_path / "blobs.yaml"
    config.write_text(yaml.safe_dump(values))
    out = tmp_path / "flow"
    root = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", str(config), "--out", str(out)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        deadline = time.monotonic() + 120
        while not (out / "folds/0/last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.5)
        os.killpg(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert said.strip().splitlines()[-1].startswith("volumetric: stopped")
    with pytest.raises(ProcessLookupError):  # the server, too, is gone
        os.killpg(running.pid, 0)

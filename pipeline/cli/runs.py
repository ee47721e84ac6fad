"""Commands that make a run, or one stage of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.ending import STOPPED, Device, finish, say
from volumetric.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.run import Run
    from pipeline.stages import Stages

app = typer.Typer()

RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, e.g. runs/hippocampus_cpu.")]
Fold = Annotated[str | None, typer.Option(help="Fold to hold out, or 'all' in turn.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, e.g. train.epochs=50."),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/demo"),
    device: Device = "auto",
) -> None:
    """The main jobs on data that needs no download: train, predict, score, report; twice.

    A scan that ships with a package is segmented; then drawn clips are told apart by their
    motion (into OUT_motions), and a long one is searched for what happens when.
    """
    from pipeline.classification.recognize import recognize as find
    from pipeline.demo import write_demo_data
    from pipeline.motions import write_motions, write_stitched

    given = {"device": device}
    manifest = write_demo_data(out / "data")
    _run(_config(Path("demo"), {**given, "data.manifest": str(manifest)}), out)
    clips = out.with_name(f"{out.name}_motions")
    manifest = write_motions(clips / "data")
    _run(_config(Path("demo_motions"), {**given, "data.manifest": str(manifest)}), clips)
    video = clips / "data" / "long.mp4"
    truth = write_stitched(video)
    find(clips / "model", [video], out=clips / "recognized", device=device, truth=truth)
    typer.echo(clips / "recognized" / "index.html")


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file, or the name of a preset.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder the manifest's paths start from.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<name>.")] = None,
    fold: Fold = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    set_: Set = None,
) -> None:
    """Every stage from raw files to report, as a Prefect flow. Run again to go on after a stop."""
    given = {"data.root": root and str(root.resolve()), "data.fold": fold, "device": device}
    overrides = {field: value for field, value in given.items() if value is not None}
    chosen = _config(config, overrides | _pairs(set_ or []))
    _run(chosen, out or Path("runs") / chosen.name)


@app.command()
def prepare(run: RunFolder) -> None:
    """Check every case, choose a plan from what was found, write network input."""
    opened = _open(run)
    _stages(opened).prepare(opened)
    finish(run)


@app.command()
def train(run: RunFolder, fold: Fold = None) -> None:
    """Learn from the cases outside a fold; goes on from the last epoch after a stop."""
    opened = _open(run, fold)
    for number in opened.folds():
        _stages(opened).train(opened, number)
    finish(run)


@app.command()
def predict(run: RunFolder, fold: Fold = None) -> None:
    """Predict the held-out cases: masks on their own grids, or probabilities of each label."""
    opened = _open(run, fold)
    stages = _stages(opened)
    for number in opened.folds():
        stages.predict(opened, number)
    stages.postprocess(opened)
    finish(run)


@app.command()
def evaluate(run: RunFolder) -> None:
    """Score the predictions; every mean with its 95 % interval."""
    opened = _open(run)
    _stages(opened).evaluate(opened)
    finish(run)


@app.command()
def report(run: RunFolder) -> None:
    """Write report/index.html, the worst case first."""
    opened = _open(run)
    finish(run, _stages(opened).report(opened))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    others: Annotated[
        list[Path], typer.Argument(metavar="B...", help="Folders of runs on the same cases.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; default <A>_vs_<B>, or <A>_series, beside A."),
    ] = None,
) -> None:
    """Is B better than A? Paired differences with intervals, on the cases both scored.

    Prints every metric; writes comparison.html, comparison.json and comparison.csv. Of several
    runs, each is compared with A, and series.html shows them side by side.
    """
    from pipeline.compare import compare as stage
    from pipeline.comparison.wording import to_text
    from pipeline.series import compare_series

    if len(others) > 1:
        page, _ = compare_series([first, *others], out=out)
        typer.echo(page)
        return
    page, found = stage(first, others[0], out=out)
    typer.echo(to_text(found))
    typer.echo(page)


def _run(config: RunConfig, out: Path) -> None:
    from pipeline.device import find_device
    from pipeline.run import create_run

    find_device(config.device)
    create_run(config, out)
    from flows.experiment import run_experiment, stop_server

    def stop(_: int, __: object) -> None:
        # Not by KeyboardInterrupt: Prefect would report it to a server that Ctrl-C ended too,
        # and wait. What stands on disk is whole at any moment.
        say(STOPPED)
        stop_server()
        os._exit(130)

    signal.signal(signal.SIGINT, stop)
    finish(out, run_experiment(out))


def _config(path: Path, overrides: dict[str, Any]) -> RunConfig:
    from pipeline.config import load_config

    return load_config(path, overrides=overrides)


def _pairs(texts: list[str]) -> dict[str, Any]:
    import yaml

    pairs = {}
    for text in texts:
        field, separator, value = text.partition("=")
        if not separator:
            raise ConfigError("bad-option", f"--set {text} has no '='", "Write FIELD=VALUE")
        try:
            pairs[field] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                "bad-option", f"--set {text} is no YAML value", "Quote it as YAML does"
            ) from error
    return pairs


def _open(folder: Path, fold: str | None = None) -> Run[Any]:
    from pipeline.run import open_run

    run = open_run(folder)
    return run if fold is None else run.with_fold(fold)


def _stages(run: Run[Any]) -> Stages:
    from pipeline.stages import find_stages

    return find_stages(run)

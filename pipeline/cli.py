"""The command line. Nothing heavy is imported until a command runs, so that --help is instant."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from volumetric.errors import ConfigError, VolumetricError

if TYPE_CHECKING:
    from pipeline.config import RunConfig

app = typer.Typer(
    help="Scans and clips in; segmentations, scores and a report out.\n\n"
    "Start with: volumetric demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_STOPPED = "volumetric: stopped; the same command goes on from here"

_CHECK = """The data doctor: is every scan what it claims to be, and the set fit to learn from?

\b
volumetric check data_manifests/hippocampus.yaml --root data/Task04_Hippocampus
volumetric check scans/           each volume file, each folder of DICOM files
volumetric check a.nii.gz b.nrrd

An error: cannot be used as it is. `volumetric run` sets a case with an error apart; with an error
in the manifest it does not start; an error of the whole set, such as a class in one fold only, it
says and goes on. A warning: can be used, but look at it. A note: dealt with, and said. A manifest
tells more than a folder does: masks beside their images, labels, folds (a run's own, where it has
none), subjects on both sides of one.

Exit code 0: no error; 1: errors; 2: nothing could be checked.
"""

RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, e.g. runs/hippocampus_cpu.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda or cuda:N.")]
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
    """The main job on a scan that ships with a package: train, predict, score, report."""
    from pipeline.demo import write_demo_data

    manifest = write_demo_data(out / "data")
    config = _config(Path("demo"), {"data.manifest": str(manifest), "device": device})
    _run(config, out)


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
    from pipeline.prepare import prepare as stage
    from pipeline.run import open_run

    stage(open_run(run))
    _finish(run)


@app.command()
def train(run: RunFolder, fold: Fold = None) -> None:
    """Learn from the cases outside a fold; goes on from the last epoch after a stop."""
    from pipeline.train import train as stage

    opened = _open(run, fold)
    for number in opened.folds():
        stage(opened, number)
    _finish(run)


@app.command()
def predict(run: RunFolder, fold: Fold = None) -> None:
    """Predict the held-out cases on their own grids."""
    from pipeline.postprocess import postprocess
    from pipeline.predict import predict as stage

    opened = _open(run, fold)
    for number in opened.folds():
        stage(opened, number)
    postprocess(opened)
    _finish(run)


@app.command()
def evaluate(run: RunFolder) -> None:
    """Score the predictions; every mean with its 95 % interval."""
    from pipeline.evaluate import evaluate as stage
    from pipeline.run import open_run

    stage(open_run(run))
    _finish(run)


@app.command()
def report(run: RunFolder) -> None:
    """Write report/index.html, the worst case first."""
    from pipeline.run import open_run

    opened = open_run(run)
    from pipeline.report import write_report

    path = write_report(run, opened.usable_cases(), classes=opened.data_set.classes)
    _finish(run, path)


@app.command()
def segment(
    model: Annotated[Path, typer.Argument(help="Model folder of a run, e.g. runs/demo/model.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="NIfTI files, folders of them, or folders of one DICOM series."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the masks and volumes.csv.")],
    device: Device = "auto",
) -> None:
    """Segment new scans, each on its own grid."""
    from pipeline.segment import segment as stage

    refused, n_done = stage(model, inputs, out=out, device=device)
    for entry in refused[:5]:
        _say(f"refused {entry['id']}: {entry['reason']} ({entry['path']})")
    if n_done:
        typer.echo(out)
    if refused:
        _say(f"refused {len(refused)} of {len(refused) + n_done}: see {out / 'quarantine.json'}")
        raise typer.Exit(1 if n_done else 2)


@app.command(help=_CHECK)
def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH...",
            help="A manifest (YAML, or CSV of cases), a folder of scans at any depth, or files.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document, nothing cut.")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder a manifest's paths start from; default: the manifest's own."),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Say what can be found: every code with its meaning.")
    ] = False,
) -> None:
    """Is every scan what it claims to be, and the data set fit to learn from?"""
    from pipeline.check import check as stage
    from pipeline.check import list_codes, to_json, to_text

    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a letter
        sys.stdout.reconfigure(errors="backslashreplace")
    if list_:
        typer.echo(list_codes())
        return
    if not paths:
        raise ConfigError("nothing-to-check", "no path was given", "Try volumetric check --help")
    report = stage(paths, root=root)
    typer.echo(to_json(report) if as_json else to_text(report, styled=_styled))
    if any(finding.severity == "error" for finding in report.findings):
        raise typer.Exit(1)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Data set of data_manifests/, or path of its YAML.")],
    to: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path("data"),
    source: Annotated[
        Path | None, typer.Option("--from", help="Local archive or folder instead of the network.")
    ] = None,
) -> None:
    """Get a data set, resuming a broken download, and verify it; prints its folder."""
    from pipeline.fetch import fetch as get
    from pipeline.manifest import find_manifest
    from pipeline.progress import track_bytes

    with track_bytes(name) as progress:
        folder = get(find_manifest(name), to=to, source=source, progress=progress)
    typer.echo(folder)


@app.command()
def models() -> None:
    """What can be trained, with parameters and FLOPs."""
    from pipeline.models import list_models

    typer.echo(list_models())


def main() -> None:
    """Run a command; a refusal is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("volumetric").setLevel(logging.INFO)
    # Says that a CUDA toolkit without a GPU is no GPU; a person who chose "cpu" knows.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        app()
    except VolumetricError as error:
        _say(f"volumetric: {error}")
        sys.exit(2)
    except OSError as error:
        _say(f"volumetric: {error.filename or 'a file'}: {error.strerror or error}. [os-error]")
        sys.exit(2)
    except KeyboardInterrupt:
        _say(_STOPPED)
        sys.exit(130)


def _run(config: RunConfig, out: Path) -> None:
    from pipeline.device import find_device
    from pipeline.run import create_run

    find_device(config.device)
    create_run(config, out)
    from flows.experiment import run_experiment, stop_server

    def stop(_: int, __: object) -> None:
        # Not by KeyboardInterrupt: Prefect would report it to a server that Ctrl-C ended too,
        # and wait. What stands on disk is whole at any moment.
        _say(_STOPPED)
        stop_server()
        os._exit(130)

    signal.signal(signal.SIGINT, stop)
    _finish(out, run_experiment(out))


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


def _open(folder: Path, fold: str | None) -> Any:
    from pipeline.run import open_run

    run = open_run(folder)
    return run if fold is None else run.with_fold(fold)


def _finish(folder: Path, result: Path | None = None) -> None:
    """Print what was made; exit code 1 if cases were set apart on the way."""
    from pipeline.files import read_json

    typer.echo(result or folder)
    entries = read_json(folder / "quarantine.json", default=[])
    if entries:
        for entry in entries[:5]:
            _say(f"quarantined {entry['id']}: {entry['reason']} ({entry['path']})")
        _say(f"{len(entries)} cases in quarantine: see {folder / 'quarantine.json'}")
        raise typer.Exit(1)


def _styled(text: str, severity: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    colours = {"error": typer.colors.RED, "warning": typer.colors.YELLOW}
    return typer.style(text, fg=colours.get(severity), bold=severity == "error")


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    main()

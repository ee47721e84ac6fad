"""Commands about data sets and networks: check, fetch, models."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from volumetric.errors import ConfigError, VolumetricError

if TYPE_CHECKING:
    from volumetric.findings import Finding

app = typer.Typer()

_CHECK = """The data doctor: is every scan what it claims to be, and the set fit to learn from?

\b
volumetric check data_manifests/hippocampus.yaml --root data/Task04_Hippocampus
volumetric check scans/           each volume file, each folder of DICOM files
volumetric check a.nii.gz b.nrrd clip.mp4
volumetric check clips/ --write-manifest clips.yaml --group '_g(\\d+)_'

An error: cannot be used as it is. `volumetric run` sets a case with an error apart; with an error
in the manifest it does not start; an error of the whole set, such as a class in one fold only, it
says and goes on. A warning: can be used, but look at it. A note: dealt with, and said. A manifest
tells more than a folder does: masks beside their images, labels, folds (a run's own, where it has
none), subjects on both sides of one.

Exit code 0: no error; 1: errors; 2: nothing could be checked.
"""


_MODELS = """Which networks there are, with parameters, FLOPs, weights, and what they are for.

\b
volumetric models                all of them
volumetric models segmentation   a class for each voxel
volumetric models volumes        a label for a whole volume or clip, by a 3D network
volumetric models slices         the same, by a 2D network on each slice or frame

The name is what model.kind takes in a run's configuration, the weights what model.weights takes:
imagenet and kinetics are torchvision's, fetched once, with the share of its test set that they
label rightly; "MedicalNet file" is a path of one of Tencent's files (resnet_18_23dataset.pth), "own
file" the path of a state dict under the network's own names. None means: it starts from chance.

Parameters are those of a network for two classes. FLOPs are those of one forward pass at the
size that each table states, a multiply-add counted twice; training takes three times as many.
"""


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
    write: Annotated[
        Path | None,
        typer.Option(
            "--write-manifest",
            metavar="YAML",
            help="Make a manifest of a folder of videos, a folder a class; then check that.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Regular expression for what in a name says whose clip it is: '_g(\\d+)_'.",
        ),
    ] = None,
) -> None:
    """Is every scan what it claims to be, and the data set fit to learn from?"""
    from pipeline.check import check as stage
    from pipeline.findings import list_codes, refused, to_json, to_text

    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that cannot show a letter
        sys.stdout.reconfigure(errors="backslashreplace")
    if list_:
        typer.echo(list_codes(as_json=as_json))
        return
    # What is noticed while reading is in the report.
    logging.getLogger("volumetric.io").setLevel(logging.ERROR)
    try:
        if not paths:
            advice = "Try volumetric check --help"
            raise ConfigError("nothing-to-check", "no path was given", advice)
        noticed: list[Finding] = []
        if write is not None:
            paths, root, noticed = _list_videos(paths, write, group)
        report = stage(paths, root=root, noticed=noticed)
    except VolumetricError as error:
        if as_json:
            typer.echo(to_json(refused(error)))
        raise
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


@app.command(help=_MODELS)
def models(
    only: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="segmentation, volumes or slices.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Which networks there are, with parameters, FLOPs, weights, and what they are for."""
    from pipeline.models import list_models

    for section in list_models(only):
        typer.echo(section)


def _list_videos(
    paths: list[Path], out: Path, group: str | None
) -> tuple[list[Path], Path, list[Finding]]:
    """A manifest of the videos in a folder: its path, where its paths start, and what was odd."""
    from pipeline.listing import write_manifest

    if len(paths) != 1 or not paths[0].is_dir():
        raise ConfigError(
            "nothing-to-list",
            "--write-manifest needs one folder",
            "Name the folder that holds a folder of videos a class",
        )
    manifest, noticed = write_manifest(paths[0], out, group=group)
    typer.echo(f"{manifest} (with --root {paths[0]})", err=True)
    return [manifest], paths[0], noticed


def _styled(text: str, severity: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    colours = {"error": typer.colors.RED, "warning": typer.colors.YELLOW}
    return typer.style(text, fg=colours.get(severity), bold=severity == "error")

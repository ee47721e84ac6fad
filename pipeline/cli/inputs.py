"""Commands that take new scans and clips to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.ending import Device, finish_inputs

app = typer.Typer()


@app.command()
def segment(
    model: Annotated[Path, typer.Argument(help="Model folder of a run, e.g. runs/demo/model.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="NIfTI, NRRD, MHA or MGZ files, folders of them, or folders of one DICOM series."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the masks and volumes.csv.")],
    series: Annotated[
        str | None, typer.Option(metavar="UID", help="Which series, of a folder with several.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Segment new scans, each on its own grid."""
    from pipeline.segmentation.segment import segment as stage

    refused, n_done = stage(model, inputs, out=out, device=device, series=series)
    finish_inputs(refused, n_done, out)


@app.command()
def detect(
    model: Annotated[
        Path, typer.Argument(help="Model folder of a run, e.g. runs/nodules_cpu/model.")
    ],
    inputs: Annotated[list[Path], typer.Argument(help="Scans as for segment.")],
    out: Annotated[Path, typer.Option(help="Folder for boxes as JSON and CSV, and objects.csv.")],
    series: Annotated[
        str | None, typer.Option(metavar="UID", help="Which series, of a folder with several.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Leave out what is less sure.")] = 0.5,
    device: Device = "auto",
) -> None:
    """Find objects in new scans: a box, a class and a score for each."""
    from pipeline.detection.detect import detect as stage

    refused, n_done = stage(
        model, inputs, out=out, device=device, series=series, threshold=threshold
    )
    finish_inputs(refused, n_done, out)


@app.command()
def growth(
    before: Annotated[Path, typer.Argument(help="Mask of the earlier date, each value an object.")],
    after: Annotated[Path, typer.Argument(help="Mask of the later date, of the same subject.")],
    days: Annotated[float, typer.Option(help="Days between the two.")],
    out: Annotated[Path | None, typer.Option(help="CSV for all measures of each object.")] = None,
    label: Annotated[
        int | None,
        typer.Option(help="Of masks of classes: each connected part of this one is an object."),
    ] = None,
    most_apart: Annotated[
        float, typer.Option(help="Most mm between centres of one object that does not overlap.")
    ] = 10.0,
    registered: Annotated[
        bool,
        typer.Option(
            "--registered", help="The grids differ, but the body is known to lie alike in both."
        ),
    ] = False,
) -> None:
    """Follow objects from one date to another: which is which, and how much each grew."""
    from pipeline.growth import follow_objects, show_growth, write_growth

    changes = follow_objects(
        before, after, days=days, label=label, most_apart_mm=most_apart, registered=registered
    )
    for line in show_growth(changes):
        typer.echo(line)
    if out is not None:
        write_growth(out, changes)
        typer.echo(out)


@app.command()
def classify(
    model: Annotated[
        Path, typer.Argument(help="Model folder of a run, e.g. runs/adrenal_cpu/model.")
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Scans as for segment, or a manifest (YAML), whose labels are then scored."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for scores.csv, results.json and report/.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder the manifest's paths start from.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(metavar="UID", help="Which series, of a folder with several.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Label new scans, and score the answers where a manifest knows better."""
    from pipeline.classification.classify import classify as stage

    refused, n_done = stage(model, inputs, out=out, device=device, root=root, series=series)
    finish_inputs(refused, n_done, out, out / "report" / "index.html")


@app.command()
def recognize(
    model: Annotated[
        Path, typer.Argument(help="Model folder of a run, e.g. runs/demo_motions/model.")
    ],
    inputs: Annotated[list[Path], typer.Argument(help="Videos, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for timelines, previews and index.html.")],
    truth: Annotated[
        Path | None,
        typer.Option(help="CSV of what happens when: video, start_s, end_s, label."),
    ] = None,
    step: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 0.5,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Find classes wherever they reach it, also several at a time; 0.5 for a model "
            "of several labels, else the most probable alone."
        ),
    ] = None,
    shortest: Annotated[float, typer.Option(help="Shortest segment, in seconds.")] = 0.5,
    preview: Annotated[bool, typer.Option(help="Write the video with its label drawn.")] = True,
    device: Device = "auto",
) -> None:
    """Find what happens when in long videos: timelines, segments, previews and a page."""
    from pipeline.classification.recognize import Recognition
    from pipeline.classification.recognize import recognize as stage

    how = Recognition(step_s=step, threshold=threshold, shortest_s=shortest, preview=preview)
    refused, n_done = stage(model, inputs, out=out, device=device, truth=truth, how=how)
    finish_inputs(refused, n_done, out, out / "index.html")

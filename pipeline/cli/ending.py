"""What the command line says when it is done, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STOPPED = "volumetric: stopped; the same command goes on from here"
_NAMED = 5  # refused cases

Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda or cuda:N.")]


def finish(folder: Path, result: Path | None = None) -> None:
    """Print what was made of a run; exit code 1 if cases were set apart on the way."""
    from pipeline.files import read_json

    typer.echo(result or folder)
    entries = read_json(folder / "quarantine.json", default=[])
    if entries:
        _say_refused("quarantined", entries)
        say(f"{len(entries)} cases in quarantine: see {folder / 'quarantine.json'}")
        raise typer.Exit(1)


def _say_refused(what: str, entries: list[dict[str, str]]) -> None:
    for entry in entries[:_NAMED]:
        why = f"{entry['reason']} ({entry['path']}). {entry['remedy']}."
        say(f"{what} {entry['id']}: {why}")
    if len(entries) > _NAMED:
        say(f"and {len(entries) - _NAMED} more")


def finish_inputs(
    refused: list[dict[str, str]], n_done: int, out: Path, result: Path | None = None
) -> None:
    """Print what was made of new inputs; exit code 1 if some were refused, 2 if all."""
    _say_refused("refused", refused)
    if n_done:
        typer.echo(result or out)
    if refused:
        say(f"refused {len(refused)} of {len(refused) + n_done}: see {out / 'quarantine.json'}")
        raise typer.Exit(1 if n_done else 2)


def say(line: str) -> None:
    """A line for a person, on stderr."""
    typer.echo(line, err=True)

"""The command line. Nothing heavy is imported until a command runs, so that --help is instant."""

from __future__ import annotations

import logging
import sys

import typer

from pipeline.cli import data, inputs, runs
from pipeline.cli.ending import STOPPED, say
from volumetric.errors import VolumetricError

app = typer.Typer(
    help="Scans and clips in; segmentations, scores and a report out.\n\n"
    "Start with: volumetric demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (runs, inputs, data):
    app.add_typer(commands.app)


def main() -> None:
    """Run a command; a refusal is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("volumetric").setLevel(logging.INFO)
    # Says that a CUDA toolkit without a GPU is no GPU; a person who chose "cpu" knows.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        app()
    except VolumetricError as error:
        say(f"volumetric: {error}")
        sys.exit(2)
    except OSError as error:
        say(f"volumetric: {error.filename or 'a file'}: {error.strerror or error}. [os-error]")
        sys.exit(2)
    except KeyboardInterrupt:
        say(STOPPED)
        sys.exit(130)

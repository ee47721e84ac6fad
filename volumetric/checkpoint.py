"""Checkpoints: what a training leaves after each epoch, and goes on from."""

from __future__ import annotations

import csv
import logging
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric

from volumetric.errors import OutputError

_LOG = logging.getLogger(__name__)


class Row(NamedTuple):
    """One line of history.csv."""

    epoch: int
    step: int
    seconds: float
    learning_rate: float
    train_loss: float
    val_score: float | None


def save(fabric: Fabric, path: Path, state: dict[str, Any]) -> None:
    """Write a training's state, whole or not at all.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        fabric.save(partial, state)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OutputError(
            "unwritable", f"cannot be written ({error})", "Check free space", path=path
        ) from error
    partial.replace(path)


def resume(checkpoint: Path, state: dict[str, Any]) -> list[Row]:
    """The epochs that stand, once `state` is as it was after them; none where it must start anew.

    A checkpoint of another key, or a damaged one, is left aside.
    """
    if not checkpoint.exists():
        return []
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        _LOG.warning("%s is damaged (%s): starting anew", checkpoint, error)
        return []
    if found["key"] != state["key"]:
        _LOG.info("%s was made with other settings or data: starting anew", checkpoint)
        return []
    state["model"].load_state_dict(found["model"])
    state["optimizer"].load_state_dict(found["optimizer"])
    for target, value in zip(state["averaged"], found["averaged"], strict=True):
        target.copy_(value)
    rows = [Row(*row) for row in found["rows"]]
    _LOG.info("going on after %d epochs", len(rows))
    return rows


def write_history(path: Path, rows: list[Row]) -> None:
    """Write a line an epoch; what is not known stays empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(["" if cell is None else cell for cell in row] for row in rows)

"""One short training loop on Lightning Fabric, which owns device, precision and checkpoints."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from volumetric.errors import OutputError, TrainingError
from volumetric.losses import deep_supervision

_LOG = logging.getLogger(__name__)

Batch = tuple[torch.Tensor, torch.Tensor]
Draw = Callable[[np.random.Generator, torch.Generator], Batch]
Validate = Callable[[nn.Module], float | None]


@dataclass(frozen=True)
class Training:
    """How a network learns.

    Attributes:
        epochs: passes of `steps_per_epoch` batches; a checkpoint and a history row after each.
        steps_per_epoch: batches an epoch.
        minutes: wall-clock budget; the schedule then ends at whichever comes first. None: none.
        optimizer: "adamw", or "sgd" with Nesterov momentum .99 as nnU-Net.
        learning_rate: at its highest.
        weight_decay: decoupled for adamw.
        warmup_steps: steps of linear rise.
        decay: "cosine", or "poly" with exponent .9; both end at 0.
        ema: decay of the averaged weights that are validated and exported; 0 switches it off.
        clip_norm: largest gradient norm.
        precision: Fabric's name, e.g. "32-true", "bf16-mixed".
        compile: compile the network (slow first step, faster ones after).
        patience: epochs without a better validation Dice before stopping; None: never. What stops
            it is then no longer untouched: scores on the same cases are a little too good.
        seed: of weights, patches and augmentation.
    """

    epochs: int
    steps_per_epoch: int
    minutes: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 50
    decay: Literal["cosine", "poly"] = "cosine"
    ema: float = 0.99
    clip_norm: float = 12.0
    precision: str = "32-true"
    compile: bool = True
    patience: int | None = None
    seed: int = 0


class Row(NamedTuple):
    """One line of history.csv."""

    epoch: int
    step: int
    seconds: float
    learning_rate: float
    train_loss: float
    val_dice: float | None


def fit(
    network: nn.Module,
    draw: Draw,
    *,
    validate: Validate,
    settings: Training,
    folder: Path,
    key: str,
) -> Iterator[Row]:
    """Train `network` in place, yielding a row an epoch; at the end it holds the averaged weights.

    After every epoch `folder/last.ckpt` and `folder/history.csv` stand; called again with the
    same key it goes on from there. Every epoch draws from its own seed, so a resumed run sees
    the batches that an unbroken one would.

    Args:
        network: on the device it shall be trained on.
        draw: next batch from the epoch's generators (NumPy for choices, torch on the device).
        validate: mean Dice of a network on held-out cases, or None.
        settings: see `Training`.
        folder: where checkpoint and history go.
        key: what the run depends on; another key starts anew.

    Raises:
        TrainingError: the loss is not finite any more, or the network cannot be compiled here.
    """
    device = next(network.parameters()).device
    devices = [device.index or 0] if device.type == "cuda" else 1
    fabric = Fabric(accelerator=device.type, devices=devices, precision=settings.precision)
    averaged = [p.detach().clone() for p in network.parameters()]
    optimizer = _optimizer(network, settings)
    trained: Any = torch.compile(network, dynamic=False) if settings.compile else network
    trained, optimizer = fabric.setup(trained, optimizer, move_to_device=False)
    state = {"model": trained, "optimizer": optimizer, "averaged": averaged, "key": key, "rows": []}
    folder.mkdir(parents=True, exist_ok=True)
    rows = _resume(folder / "last.ckpt", state)
    yield from rows
    started = time.monotonic() - (rows[-1].seconds if rows else 0.0)
    while not _finished(rows, settings):
        clock = _Clock(started, settings, len(rows))
        if clock.progress() >= 1:
            break
        loss, rate = _train_epoch(fabric, trained, optimizer, averaged, (draw, clock, settings))
        with _weights(network, averaged):
            network.eval()
            dice = validate(network)
        rows.append(Row(clock.epoch, clock.step, time.monotonic() - started, rate, loss, dice))
        state["rows"] = [tuple(row) for row in rows]
        _save(fabric, folder / "last.ckpt", state)
        _write_history(folder / "history.csv", rows)
        yield rows[-1]
    _assign(network, averaged)
    network.eval()


@dataclass
class _Clock:
    """How far the schedule has come: by steps or by time, whichever is further."""

    started: float
    settings: Training
    epoch: int
    step: int = 0

    def __post_init__(self) -> None:
        self.step = self.epoch * self.settings.steps_per_epoch

    def progress(self) -> float:
        by_steps = self.step / (self.settings.epochs * self.settings.steps_per_epoch)
        if self.settings.minutes is None:
            return by_steps
        by_time = (time.monotonic() - self.started) / (60 * self.settings.minutes)
        return min(1.0, max(by_steps, by_time))

    def rate(self) -> float:
        """Learning rate of this step."""
        warm = min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))
        left = 1 - self.progress()
        shape = (
            0.5 * (1 - math.cos(math.pi * left)) if self.settings.decay == "cosine" else left**0.9
        )
        return self.settings.learning_rate * warm * shape


def _train_epoch(
    fabric: Fabric,
    trained: Any,
    optimizer: Any,
    averaged: list[torch.Tensor],
    plan: tuple[Draw, _Clock, Training],
) -> tuple[float, float]:
    draw, clock, settings = plan
    rng = np.random.default_rng([settings.seed, clock.epoch])
    generator = torch.Generator(fabric.device).manual_seed(settings.seed * 100_003 + clock.epoch)
    trained.train()
    parameters = list(trained.parameters())
    losses = []
    for _ in range(settings.steps_per_epoch):
        if clock.progress() >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = clock.rate()
        images, masks = draw(rng, generator)
        loss = deep_supervision(_outputs(trained, images), masks)
        optimizer.zero_grad()
        fabric.backward(loss)
        fabric.clip_gradients(
            trained, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
        optimizer.step()
        clock.step += 1
        decay = min(settings.ema, (1 + clock.step) / (10 + clock.step)) if settings.ema else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - decay)
        losses.append(loss.detach())
    mean = float(torch.stack(losses).mean()) if losses else math.nan
    if losses and not math.isfinite(mean):
        raise TrainingError(
            "diverged",
            f"the loss became {mean} in epoch {clock.epoch}",
            "Lower train.learning_rate",
        )
    return mean, clock.rate()


def _outputs(trained: Any, images: torch.Tensor) -> Any:
    try:
        return trained(images)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "out-of-memory",
            "a batch does not fit into the device's memory",
            "Lower model.budget_voxels or train.batch_size, or free the device",
        ) from error
    except torch._dynamo.exc.BackendCompilerFailed as error:
        raise TrainingError(
            "compile-failed",
            f"the network cannot be compiled here ({str(error).splitlines()[0]})",
            "Install a C++ compiler and Python's headers (Debian: g++ python3-dev), or train "
            "without, more slowly: train.compile false",
        ) from error


def _optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    match settings.optimizer:
        case "adamw":
            return torch.optim.AdamW(
                network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
            )
        case "sgd":
            return torch.optim.SGD(
                network.parameters(),
                settings.learning_rate,
                momentum=0.99,
                nesterov=True,
                weight_decay=settings.weight_decay,
            )


def _finished(rows: list[Row], settings: Training) -> bool:
    if len(rows) >= settings.epochs:
        return True
    scores = [row.val_dice for row in rows if row.val_dice is not None]
    if settings.patience is None or not scores:
        return False
    return len(scores) - 1 - int(np.argmax(scores)) >= settings.patience


def _save(fabric: Fabric, path: Path, state: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        fabric.save(partial, state)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OutputError(
            "unwritable", f"cannot be written ({error})", "Check free space", path=path
        ) from error
    partial.replace(path)


def _resume(checkpoint: Path, state: dict[str, Any]) -> list[Row]:
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


def _write_history(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(["" if cell is None else cell for cell in row] for row in rows)


@contextlib.contextmanager
def _weights(network: nn.Module, averaged: list[torch.Tensor]) -> Iterator[None]:
    """The network with the averaged weights; its own are put back on leaving."""
    own = [p.detach().clone() for p in network.parameters()]
    _assign(network, averaged)
    yield
    _assign(network, own)


def _assign(network: nn.Module, values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), values, strict=True):
            parameter.copy_(value)

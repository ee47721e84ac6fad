"""One short training loop on Lightning Fabric, which owns device, precision and checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from volumetric.checkpoint import Row, resume, save, write_history
from volumetric.errors import TrainingError
from volumetric.transfer import Norm, group_parameters, hold_back

Batch = tuple[Any, Any]
Draw = Callable[[np.random.Generator, torch.Generator], Batch]
Loss = Callable[[Any, Any], torch.Tensor]
Validate = Callable[[nn.Module], float | None]


@dataclass(frozen=True)
class Lesson:
    """What is learned.

    Attributes:
        draw: next batch from the epoch's generators (NumPy for choices, torch on the device):
            images and targets; images may be a tuple, whose parts the network is called with.
        loss: of the network's outputs and a batch's targets.
        validate: score of a network on held-out cases, higher is better; None if there are none.
    """

    draw: Draw
    loss: Loss
    validate: Validate


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
        layer_decay: of the rate from each stage of a network to the one below it, see
            `volumetric.transfer.group_parameters`.
        unfreeze_epochs: the head learns alone for so many, then stages join it, see
            `volumetric.transfer.count_learning`; 0: all learn from the start.
        norm: "eval" keeps the statistics of batch norms below the head.
        warmup_steps: steps of linear rise.
        decay: "cosine", or "poly" with exponent .9; both end at 0.
        ema: decay of the averaged weights that are validated and exported; 0 switches it off.
        clip_norm: largest gradient norm.
        precision: Fabric's name, e.g. "32-true", "bf16-mixed".
        compile: compile the network (slow first step, faster ones after).
        patience: epochs without a better validation score before stopping, all stages learning;
            None: never. What stops it is then no longer untouched: scores on the same cases are
            a little too good.
        seed: of weights, patches and augmentation.
    """

    epochs: int
    steps_per_epoch: int
    minutes: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    layer_decay: float = 1.0
    unfreeze_epochs: int = 0
    norm: Norm = "train"
    warmup_steps: int = 50
    decay: Literal["cosine", "poly"] = "cosine"
    ema: float = 0.99
    clip_norm: float = 12.0
    precision: str = "32-true"
    compile: bool = True
    patience: int | None = None
    seed: int = 0


def fit(
    network: nn.Module,
    lesson: Lesson,
    *,
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
        lesson: what it learns.
        settings: see `Training`.
        folder: where checkpoint and history go.
        key: what the run depends on; another key starts anew.

    Raises:
        TrainingError: the loss is not finite any more, or the network cannot be compiled here.
    """
    device = next(network.parameters()).device
    devices = [device.index or 0] if device.type == "cuda" else 1
    fabric = Fabric(accelerator=device.type, devices=devices, precision=settings.precision)
    averaged = [value.clone() for value in _values(network)]
    optimizer = _optimizer(network, settings)
    trained: Any = torch.compile(network, dynamic=False) if settings.compile else network
    trained, optimizer = fabric.setup(trained, optimizer, move_to_device=False)
    state = {"model": trained, "optimizer": optimizer, "averaged": averaged, "key": key, "rows": []}
    folder.mkdir(parents=True, exist_ok=True)
    rows = resume(folder / "last.ckpt", state)
    yield from rows
    started = time.monotonic() - (rows[-1].seconds if rows else 0.0)
    while not _finished(rows, settings):
        clock = _Clock(started, settings, len(rows))
        if clock.progress() >= 1:
            break
        with _learning(network, trained, clock) as waiting:
            loss, rate = _train_epoch(
                fabric, trained, optimizer, averaged, (lesson, clock, waiting)
            )
        with _weights(network, averaged):
            network.eval()
            score = lesson.validate(network)
        rows.append(Row(clock.epoch, clock.step, time.monotonic() - started, rate, loss, score))
        state["rows"] = [tuple(row) for row in rows]
        save(fabric, folder / "last.ckpt", state)
        write_history(folder / "history.csv", rows)
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


@contextlib.contextmanager
def _learning(network: nn.Module, trained: Any, clock: _Clock) -> Iterator[list[nn.Parameter]]:
    """Training mode, but for what does not learn in this epoch, whose parameters it yields."""
    trained.train()
    with hold_back(
        network,
        clock.epoch,
        unfreeze_epochs=clock.settings.unfreeze_epochs,
        norm=clock.settings.norm,
        spare=not clock.settings.compile,
    ) as waiting:
        yield waiting


def _train_epoch(
    fabric: Fabric,
    trained: Any,
    optimizer: Any,
    averaged: list[torch.Tensor],
    plan: tuple[Lesson, _Clock, list[nn.Parameter]],
) -> tuple[float, float]:
    lesson, clock, waiting = plan
    settings = clock.settings
    rng = np.random.default_rng([settings.seed, clock.epoch])
    seed = settings.seed * 100_003 + clock.epoch
    generator = torch.Generator(fabric.device).manual_seed(seed)
    torch.manual_seed(seed)  # of what networks draw themselves: dropout, a detector's samples
    values = _values(trained)
    losses = []
    for _ in range(settings.steps_per_epoch):
        if clock.progress() >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = clock.rate() * group["scale"]
        images, targets = lesson.draw(rng, generator)
        loss = lesson.loss(_outputs(trained, images), targets)
        optimizer.zero_grad()
        fabric.backward(loss)
        for parameter in waiting:
            parameter.grad = None
        fabric.clip_gradients(
            trained, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
        optimizer.step()
        clock.step += 1
        decay = min(settings.ema, (1 + clock.step) / (10 + clock.step)) if settings.ema else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(averaged, values, 1 - decay)
        losses.append(loss.detach())
    mean = float(torch.stack(losses).mean()) if losses else math.nan
    if losses and not math.isfinite(mean):
        raise TrainingError(
            "diverged",
            f"the loss became {mean} in epoch {clock.epoch}",
            "Lower train.learning_rate",
        )
    return mean, clock.rate()


def _outputs(trained: Any, images: Any) -> Any:
    try:
        return trained(*images) if isinstance(images, tuple) else trained(images)
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
    groups = group_parameters(
        network, layer_decay=settings.layer_decay, weight_decay=settings.weight_decay
    )
    match settings.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, settings.learning_rate)
        case "sgd":
            return torch.optim.SGD(groups, settings.learning_rate, momentum=0.99, nesterov=True)


def _finished(rows: list[Row], settings: Training) -> bool:
    if len(rows) >= settings.epochs:
        return True
    whole = rows[max(0, 2 * settings.unfreeze_epochs - 1) :]  # all stages learned
    scores = [row.val_score for row in whole if row.val_score is not None]
    if settings.patience is None or not scores:
        return False
    return len(scores) - 1 - int(np.argmax(scores)) >= settings.patience


@contextlib.contextmanager
def _weights(network: nn.Module, averaged: list[torch.Tensor]) -> Iterator[None]:
    """The network with the averaged weights; its own are put back on leaving."""
    own = [value.clone() for value in _values(network)]
    _assign(network, averaged)
    yield
    _assign(network, own)


def _assign(network: nn.Module, values: list[torch.Tensor]) -> None:
    for own, value in zip(_values(network), values, strict=True):
        own.copy_(value)


def _values(network: nn.Module) -> list[torch.Tensor]:
    """Weights, and what batch normalisation has counted, which belongs to them."""
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    return [*(parameter.detach() for parameter in network.parameters()), *buffers]

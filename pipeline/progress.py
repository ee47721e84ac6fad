"""Long work shown as it goes: a bar with rate and time left, or plain lines off a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from volumetric.cases import Case
from volumetric.errors import OutputError, VolumetricError

if TYPE_CHECKING:
    from volumetric.checkpoint import Row
    from volumetric.learning import Training

_LOG = logging.getLogger("volumetric")
_EVERY_S = 10.0  # between plain lines

T = TypeVar("T")

Outcome = tuple[Case, VolumetricError | None]
Each = Callable[[Callable[[Case], None], Sequence[Case], str], Iterator[Outcome]]
"""Do something for every case, giving each with its typed error or None."""


def track(
    items: Iterable[T],
    *,
    total: int,
    title: str,
    unit: str = "cases",
    limit_s: float | None = None,
) -> Iterator[T]:
    """The items as they come, their progress shown on stderr.

    An item that knows its `seconds` since the start (a resumed training does) is believed.
    `limit_s` is when the work ends whatever is left.
    """
    pace = _Pace(total, unit, limit_s)
    if not sys.stderr.isatty():
        yield from _plain_lines(items, title, pace)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=1) as progress:
        task = progress.add_task(title, total=total, said="")
        for number, item in enumerate(items, start=1):
            progress.update(task, advance=1, said=pace.say(number, item))
            yield item


def track_epochs(rows: Iterator[Row], settings: Training, *, fold: int) -> None:
    """Train to the end, epochs shown as they come, and say what ended it early if something did."""
    limit_s = None if settings.minutes is None else 60 * settings.minutes
    n_epochs = 0
    for _ in track(
        rows, total=settings.epochs, title=f"fold {fold}", unit="epochs", limit_s=limit_s
    ):
        n_epochs += 1
    if n_epochs < settings.epochs:
        limits = f"train.minutes ({settings.minutes}) or train.patience ({settings.patience})"
        _LOG.info(
            "fold %d: %s ended it after %d of %d epochs", fold, limits, n_epochs, settings.epochs
        )


def each_in_threads(n_workers: int) -> Each:
    """Cases in parallel threads: reading, unpacking and tensor work release the interpreter."""

    def each(do: Callable[[Case], None], cases: Sequence[Case], title: str) -> Iterator[Outcome]:
        with ThreadPoolExecutor(n_workers) as pool:
            outcomes = pool.map(lambda case: (case, attempt(do, case)), cases)
            yield from track(outcomes, total=len(cases), title=title)

    return each


@contextmanager
def one_core_each(n_workers: int) -> Iterator[None]:
    """Within it, threads that torch has not met yet compute on one core if there are several.

    Preparing and scoring are many small tensors: a core a case beats several cores a tensor.
    """
    import torch

    before = torch.get_num_threads()
    if n_workers > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attempt(do: Callable[[Case], None], case: Case) -> VolumetricError | None:
    """Do it; give back a typed error instead of raising it, so that other cases go on."""
    try:
        do(case)
    except VolumetricError as error:
        return error
    except MemoryError:
        return _too_large(case)
    except OSError as error:
        return OutputError(
            "os-error",
            error.strerror or str(error),
            "Check permissions and free space, and that its drive is there",
            path=error.filename or case.image,
        )
    except Exception as error:  # one bad case must not end a long run; the traceback is logged
        if type(error).__name__ == "OutOfMemoryError":  # torch's; not imported for a name
            return _too_large(case)
        _LOG.exception("case %s", case.id)
        return VolumetricError(
            "internal-error",
            f"{type(error).__name__}: {error}",
            "This is a defect of volumetric: report it with the log above",
            path=case.image,
        )
    return None


def _too_large(case: Case) -> VolumetricError:
    return VolumetricError(
        "out-of-memory",
        "does not fit into memory",
        "Free memory, use --device cpu, or a machine with more",
        path=case.image,
    )


class _Pace:
    """Rate and time left, in words."""

    def __init__(self, total: int, unit: str, limit_s: float | None):
        self.total, self.unit, self.limit_s = total, unit, limit_s
        self.started = time.monotonic()

    def say(self, number: int, item: object) -> str:
        elapsed = max(1e-9, getattr(item, "seconds", time.monotonic() - self.started))
        left = (self.total - number) * elapsed / number
        if self.limit_s is not None:
            left = max(0.0, min(left, self.limit_s - elapsed))
        rate = number / elapsed
        each = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{self.unit[:-1]}"
        return f"{each}, {left:.0f} s left {_note(item)}".rstrip()


def _plain_lines(items: Iterable[T], title: str, pace: _Pace) -> Iterator[T]:
    last = time.monotonic()
    for number, item in enumerate(items, start=1):
        if time.monotonic() - last >= _EVERY_S or number == pace.total:
            _LOG.info("%s: %d of %d, %s", title, number, pace.total, pace.say(number, item))
            last = time.monotonic()
        yield item


def _note(item: object) -> str:
    score = getattr(item, "val_score", None)
    loss = getattr(item, "train_loss", None)
    if loss is None:
        return ""
    return f"(loss {loss:.3f}" + (")" if score is None else f", held-out {score:.3f})")


@contextmanager
def track_bytes(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """What a download calls with (bytes done, bytes in all); shown as a bar, or as plain lines."""
    if not sys.stderr.isatty():
        yield _byte_lines(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeLeft())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _byte_lines(title: str) -> Callable[[int, int | None], None]:
    last = time.monotonic()

    def say(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY_S or done == total:
            _LOG.info(
                "%s: %.1f MB of %s", title, done / 1e6, f"{total / 1e6:.1f} MB" if total else "?"
            )
            last = time.monotonic()

    return say

"""The decoding processes: started when needed, used again, killed when they stop or crash."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volumetric.errors import UnreadableFileError, UnsupportedError

Kind = Literal["av", "decord"]
Answer = tuple[dict[str, Any], NDArray[np.uint8] | None]

_START_S = 60.0
_SILENCE_S = 4.0  # without a sign of life while decoding
_BUSY_S = 1.5  # of processor time meanwhile; with less it is a crowded machine, and waited for
_CROWDED_S = 60.0
# Address space, of which decord's libraries for graphics cards claim 3.6 GB without using it.
_MEMORY: dict[Kind, int] = {"av": 3 * 2**30, "decord": 8 * 2**30}
_N_IDLE = 2  # processes of a kind kept waiting
_ROOT = Path(__file__).parents[3]

_lock = threading.Lock()
_idle: dict[Kind, list[Worker]] = {"av": [], "decord": []}
_busy: set[Worker] = set()
_inherited: list[Worker] = []  # belong to the process this one was forked from


class _SilentError(Exception):
    pass


class Worker:
    """One decoding process and the pipes to it."""

    def __init__(self, kind: Kind):
        self.kind: Kind = kind
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "volumetric.io.video.worker", str(_MEMORY[kind]), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # an interrupt from the keyboard is the caller's to handle
        )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, 2**20)
        try:
            self._receive(_START_S)
        except BaseException:
            self.kill()
            raise

    def ask(self, request: dict[str, Any]) -> Iterator[Answer]:
        """The answers to one request, the last of kind "done" or "refused"."""
        self._stdin.write(json.dumps(request).encode() + b"\n")
        while True:
            message, pixels = self._receive(_SILENCE_S)
            if message["kind"] != "beat":
                yield message, pixels
            if message["kind"] in ("done", "refused", "fault"):
                return

    def _receive(self, patience_s: float) -> Answer:
        (length,) = struct.unpack("<I", self._read(4, patience_s).tobytes())
        message = json.loads(self._read(length, patience_s).tobytes())
        n_bytes = message["n_bytes"]
        return message, self._read(n_bytes, patience_s) if n_bytes else None

    def _read(self, n_bytes: int, patience_s: float) -> NDArray[np.uint8]:
        buffer = np.empty(n_bytes, np.uint8)
        view = buffer.data
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN | select.POLLHUP)
        while view:
            self._wait(poll, patience_s)
            n_read = os.readv(self._stdout.fileno(), [view])
            if n_read == 0:
                raise EOFError
            view = view[n_read:]
        return buffer

    def _wait(self, poll: select.poll, patience_s: float) -> None:
        if poll.poll(0):
            return
        worked_s, waited_s = self._processor_s(), 0.0
        while not poll.poll(1000 * patience_s):
            waited_s += patience_s
            now_s = self._processor_s()
            if now_s is None or worked_s is None or now_s - worked_s > _BUSY_S:
                raise _SilentError
            if waited_s > _CROWDED_S:
                raise _SilentError

    def _processor_s(self) -> float | None:
        """Seconds the process has computed; None where the system does not tell."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return None
        ticks = sum(map(int, stat.rpartition(")")[2].split()[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the process at once, whatever it does, and leave no trace of it."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def forget(self) -> None:
        """After a fork: close this process's copies of the pipes; the worker is another's."""
        self._stdin.close()
        self._stdout.close()
        self._process.returncode = 0  # not ours to wait for


def converse(path: Path, request: dict[str, Any], *, kind: Kind = "av") -> Generator[Answer]:
    """Answers of a decoding process about a file; one that is not read to its end is ended.

    Raises:
        UnreadableFileError: damaged; the process crashed, or gave no sign of life for 4 s.
        UnsupportedError: sound, but of a kind that is not read.
    """
    worker = _take(kind)
    in_order = False
    try:
        for message, pixels in worker.ask({**request, "path": os.path.abspath(path)}):  # noqa: PTH100
            in_order = message["kind"] in ("done", "refused")
            if message["kind"] == "refused":
                error = UnsupportedError if message.get("unsupported") else UnreadableFileError
                raise error(message["code"], message["reason"], message["remedy"], path=path)
            if message["kind"] == "fault":
                raise RuntimeError(message["text"])
            if in_order:
                _give_back(worker)
                worker = None  # type: ignore[assignment]
            yield message, pixels
    except _SilentError as error:
        in_order = False
        raise UnreadableFileError(
            "decoder-hung",
            f"decoding it stood still for {_SILENCE_S:.0f} s",
            "Convert it to H.264 in .mp4, or export it again",
            path=path,
        ) from error
    except (EOFError, BrokenPipeError) as error:
        in_order = False
        raise UnreadableFileError(
            "decoder-crashed",
            "decoding it crashed the decoder, which ran apart",
            "Convert it to H.264 in .mp4, or export it again",
            path=path,
        ) from error
    finally:
        if worker is not None:
            _give_back(worker) if in_order else _discard(worker)


def _take(kind: Kind) -> Worker:
    with _lock:
        worker = _idle[kind].pop() if _idle[kind] else None
    if worker is None or worker.has_ended():
        if worker is not None:
            worker.kill()
        worker = Worker(kind)
    with _lock:
        _busy.add(worker)
    return worker


def _give_back(worker: Worker) -> None:
    with _lock:
        _busy.discard(worker)
        if len(_idle[worker.kind]) < _N_IDLE:
            _idle[worker.kind].append(worker)
            return
    worker.kill()


def _discard(worker: Worker) -> None:
    with _lock:
        _busy.discard(worker)
    worker.kill()


def end_idle(kind: Kind) -> None:
    """End the processes of a kind that nobody is using: one of decord holds 0.7 GB."""
    with _lock:
        workers = list(_idle[kind])
        _idle[kind].clear()
    for worker in workers:
        worker.kill()


@atexit.register
def _kill_all() -> None:
    with _lock:
        workers = [*_busy, *_idle["av"], *_idle["decord"]]
        _busy.clear()
        for idle in _idle.values():
            idle.clear()
    for worker in workers:
        worker.kill()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it
    for worker in [*_busy, *_idle["av"], *_idle["decord"]]:
        worker.forget()
        _inherited.append(worker)
    _busy.clear()
    for idle in _idle.values():
        idle.clear()


os.register_at_fork(after_in_child=_after_fork)

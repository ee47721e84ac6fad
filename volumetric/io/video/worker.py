"""The decoding process: takes requests on its standard input until that ends.

Start it with `python -m volumetric.io.video.worker`. A request is one line of JSON. Answers are a
length (4 bytes, little endian), that many bytes of JSON, and `n_bytes` of pixels where it says so.
A message of kind "beat" says no more than that work goes on.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import struct
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any, BinaryIO

_BEAT_S = 0.2
_BATCH_BYTES = 2**22
_HANG_S = 30  # ends the process by itself, should nobody be left to kill it

_OUT: BinaryIO


def main() -> None:
    """Answer requests until there are no more."""
    global _OUT
    _OUT = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not mix with answers
    _limit_memory(int(sys.argv[1]))
    import av  # noqa: F401  (paid before the first request, whose time is limited)

    from volumetric.io.video import access  # noqa: F401

    if sys.argv[2] == "decord":
        import decord  # noqa: F401
    _send({"kind": "ready"})
    for line in sys.stdin.buffer:
        try:
            _answer(json.loads(line))
        except BrokenPipeError:
            return


def _limit_memory(n_bytes: int) -> None:
    for limit, value in ((resource.RLIMIT_AS, n_bytes), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):  # some systems have no such limit
            continue


def _answer(request: dict[str, Any]) -> None:
    from volumetric.io.video.source import RefusedError

    try:
        _send({"kind": "done", "result": _serve(request)})
    except RefusedError as error:
        _send(
            {
                "kind": "refused",
                "code": error.code,
                "reason": error.reason,
                "remedy": error.remedy,
                "unsupported": error.unsupported,
            }
        )
    except MemoryError:
        _refuse("decoder-memory", "needs more memory to decode than is allowed")
    except BrokenPipeError:
        raise
    except (NameError, TypeError, AttributeError, KeyError, AssertionError):
        _send({"kind": "fault", "text": traceback.format_exc()})  # ours, not the file's
    except Exception as error:
        _refuse("undecodable", f"cannot be decoded ({type(error).__name__}: {error})")
    finally:
        faulthandler.cancel_dump_traceback_later()


def _refuse(code: str, reason: str) -> None:
    remedy = "Convert it to H.264 in .mp4"
    _send({"kind": "refused", "code": code, "reason": reason, "remedy": remedy})


def _serve(request: dict[str, Any]) -> Any:
    from volumetric.io.video import access
    from volumetric.io.video.examine import examine

    path = request["path"]
    beat = _Heart().beat
    match request["do"]:
        case "examine":
            return examine(path, beat)
        case "prove":
            return access.prove(path, request["checksums"], beat)
        case "read":
            read = access.read_by_jumps if sys.argv[2] == "decord" else access.read_in_order
            size = tuple(request["size"]) if request["size"] else None
            checksums = dict(request["checksums"])
            _send_batches(read(path, checksums, size=size, beat=beat))
    return None


def _send_batches(frames: Iterable[tuple[int, Any]]) -> None:
    from volumetric.io.video.access import as_batch

    held: list[tuple[int, Any]] = []
    for frame in frames:
        held.append(frame)
        if len(held) * frame[1].nbytes >= _BATCH_BYTES:
            _send_batch(held, as_batch([pixels for _, pixels in held]))
            held = []
    if held:
        _send_batch(held, as_batch([pixels for _, pixels in held]))


def _send_batch(held: list[tuple[int, Any]], batch: Any) -> None:
    numbers = [number for number, _ in held]
    header = {"kind": "frames", "numbers": numbers, "shape": batch.shape}
    _send(header, memoryview(batch).cast("B"))


def _send(message: dict[str, Any], payload: memoryview | None = None) -> None:
    faulthandler.cancel_dump_traceback_later()  # whoever reads may take their time
    text = json.dumps({**message, "n_bytes": len(payload) if payload else 0}).encode()
    _write(memoryview(struct.pack("<I", len(text)) + text))
    if payload:
        _write(payload)


def _write(view: memoryview) -> None:
    while view:
        view = view[_OUT.write(view) :]


class _Heart:
    """Sends a beat now and then, and arms the process's own end should it stop."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        faulthandler.dump_traceback_later(_HANG_S, exit=True)

    def beat(self) -> None:
        now = time.monotonic()
        if now - self._last >= _BEAT_S:
            self._last = now
            _send({"kind": "beat"})
            faulthandler.dump_traceback_later(_HANG_S, exit=True)


if __name__ == "__main__":
    main()

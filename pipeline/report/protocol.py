"""How cases were tested, in a sentence: without it a number says little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TIMES = "\N{MULTIPLICATION SIGN}"

_Result = Mapping[str, Any]


def protocol_text(protocol: _Result) -> str:
    """The test protocol as a sentence; "" where it is unknown."""
    if {"shape", "spacing_mm"} <= set(protocol):
        return _scan_protocol(protocol)
    if not {"views", "crops", "frames", "sampling", "size", "fit", "rate"} <= set(protocol):
        return ""
    views, crops, stride = protocol["views"], protocol["crops"], protocol.get("stride", 1)
    frames, rate, size = protocol["frames"], protocol["rate"], protocol["size"]
    height, width = (size, size) if isinstance(size, int) else size
    how = {"uniform": "spread evenly over the clip", "segments": "one of each of equal parts"}
    chosen = how.get(str(protocol["sampling"]))
    if chosen is None:
        step = "each" if stride == 1 else f"every {stride}th" if stride > 3 else f"every {stride}."
        step = {2: "every second", 3: "every third"}.get(stride, step)
        chosen = f"{step} prepared frame, {frames * stride / rate:.2f} s long"
    fit = "cut out of" if protocol["fit"] == "crop" else "squeezed from"
    seen = {"residual": "frame differences", "both": "frames and their differences"}
    mirrored = protocol.get("mirrored", 1)
    averaged = "" if views * crops * mirrored == 1 else "; their probabilities are averaged"
    if mirrored > 1:
        averaged = f", each in {mirrored} mirror images" + averaged
    return (
        f"Tested on {views} {'view' if views == 1 else 'views'} {_TIMES} {crops} "
        f"{'crop' if crops == 1 else 'crops'} of each clip{averaged}. A view is {frames} "
        f"{seen.get(str(protocol.get('input')), 'frames')} ({chosen}) at {rate:g} frames a second, "
        f"{height} {_TIMES} {width} px {fit} the frame."
    )


def _scan_protocol(protocol: _Result) -> str:
    shape = f" {_TIMES} ".join(str(n) for n in protocol["shape"])
    spacing = f" {_TIMES} ".join(f"{mm:g}" for mm in protocol["spacing_mm"])
    n, side = protocol.get("mirrored", 1), protocol.get("slice_size")
    sliced = f", its slices scaled to {side} {_TIMES} {side}" if side else ""
    averaged = f" The probabilities of {n} mirror images are averaged." if n > 1 else ""
    return f"Each scan is seen whole, as {shape} voxels of {spacing} mm{sliced}.{averaged}"

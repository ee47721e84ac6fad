"""Video: probed once, read exactly or refused, decoded in a process that can be killed.

Names load what they need when first used: the decoding process imports this package, too, and
must not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volumetric.io.video.clip import read_clip, read_frames, stream_clip
    from volumetric.io.video.names import is_video_file
    from volumetric.io.video.probe import Probe, probe_video
    from volumetric.io.video.write import write_video

_HOMES = {
    "Probe": "probe",
    "is_video_file": "names",
    "probe_video": "probe",
    "read_clip": "clip",
    "read_frames": "clip",
    "stream_clip": "clip",
    "write_video": "write",
}

__all__ = [
    "Probe",
    "is_video_file",
    "probe_video",
    "read_clip",
    "read_frames",
    "stream_clip",
    "write_video",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

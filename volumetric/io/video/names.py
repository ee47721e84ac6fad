"""Which files' names say that they are videos."""

from __future__ import annotations

from pathlib import Path

_SUFFIXES = frozenset(
    [".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"]
) | frozenset([".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"])


def is_video_file(path: Path) -> bool:
    """Whether a name says that it is a video."""
    return path.suffix.lower() in _SUFFIXES

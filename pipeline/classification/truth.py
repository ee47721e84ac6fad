"""Truth of long videos: what happens when in each, as a person wrote it down."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from volumetric.cases import read_manifest
from volumetric.errors import ConfigError, ManifestError
from volumetric.metrics import Segment

_LOG = logging.getLogger("volumetric")

_TRUTH = ("video", "start_s", "end_s", "label")


def read_truth(path: Path, *, classes: Sequence[str]) -> dict[str, list[Segment]]:
    """Segments of each video's name in a CSV with columns video, start_s, end_s and label.

    Raises:
        ManifestError: other columns, a row without numbers, or a label that is no class.
    """
    rows = csv.DictReader(read_manifest(path).removeprefix("\ufeff").splitlines())
    segments: dict[str, list[Segment]] = {}
    if tuple(rows.fieldnames or ()) != _TRUTH:
        raise ManifestError(
            "bad-columns",
            f"has columns {', '.join(rows.fieldnames or ['none'])}",
            f"Give {', '.join(_TRUTH)}",
            path=path,
        )
    for row in rows:
        try:
            one = Segment(float(row["start_s"]), float(row["end_s"]), row["label"])
        except (TypeError, ValueError, ConfigError) as error:
            raise ManifestError(
                "bad-row",
                f"{row['start_s']!r} and {row['end_s']!r} are no start and end",
                "Give seconds, such as 12.5, and an end after the start",
                path=f"{path}:{rows.line_num}",
            ) from error
        if one.label not in classes:
            raise ManifestError(
                "unknown-label",
                f"the model does not know {one.label!r}",
                f"Use its classes: {', '.join(classes)}",
                path=f"{path}:{rows.line_num}",
            )
        segments.setdefault(Path(row["video"]).stem, []).append(one)
    return segments


def compare_names(path: Path, truth: set[str], given: set[str]) -> None:
    """Say which of the videos that are `given` the truth does not tell of, and the reverse.

    Raises:
        ManifestError: it tells of none of them.
    """
    if not given & truth:
        raise ManifestError(
            "truth-of-others",
            f"tells of {_some(truth)}, and not of {_some(given)}",
            "Write in its column video the names of the videos",
            path=path,
        )
    for names, said in (
        (given - truth, "not scored, as the truth does not tell of"),
        (truth - given, "the truth tells of others, too:"),
    ):
        if names:
            _LOG.warning("%s: %s %s", path, said, _some(names))


def compare_end(video: str, duration_s: float, truth: Sequence[Segment]) -> None:
    """Warn of a truth that goes on after its video, as one in other units than seconds does."""
    end_s = max((one.end_s for one in truth), default=0.0)
    if end_s > duration_s + 1:
        _LOG.warning("%s: the truth ends at %g s, the video at %.1f s", video, end_s, duration_s)


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + ", …" * (len(names) > 3) or "no video"

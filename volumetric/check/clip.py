"""Is a clip what it claims to be? Decode it whole, or refuse with an error; say what is odd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from volumetric.cases import Case
from volumetric.check.clips import ClipTraits, take_clip_traits
from volumetric.check.labels import Said, check_label
from volumetric.errors import (
    UnreadableFileError,
    UnsupportedError,
    VolumetricError,
    printable,
)
from volumetric.findings import Finding, as_finding
from volumetric.io.reader import is_dicom_file, is_volume_file
from volumetric.io.video import Probe, probe_video
from volumetric.io.video.choice import check_window, choose_numbers

_FROZEN_S = 1.0  # no camera of a living scene repeats a frame for so long
_FEWEST_FROZEN = 5  # frames: a slow film of stills shows each for long
_REPEATED_SHARE = 1 / 3  # of the frames: every third of a film made faster for a display
_SMALLEST = 24  # pixels a side; arrays of thermal sensors have 24 x 32
_SLOWEST, _FASTEST = 1.0, 1000.0  # frames a second: time lapse below, high-speed cameras above

_NOT_THERE = ("missing-file", "empty-file", "unreadable-file")


@dataclass(frozen=True)
class CheckedClip:
    """What the doctor saw of one clip.

    Attributes:
        case: the case.
        findings: all that was noticed, refusals first.
        error: the first refusal; None for a case that can be used.
        traits: what the cohort compares; None unless the case can be used.
    """

    case: Case
    findings: tuple[Finding, ...]
    error: VolumetricError | None
    traits: ClipTraits | None


def check_clip(
    case: Case,
    *,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
    cache: Path | None = None,
) -> CheckedClip:
    """All that can be said of a clip by itself; what reading it by time would refuse is among it.

    `labels` are those that its manifest declares; without them its label is not looked at.
    `multi_label` as in a manifest. `cache` is a folder of probes, as `probe_video` takes it.
    """
    probe, noticed = _probe(case, cache)
    if labels is not None:
        noticed += check_label(case, labels, multi_label=multi_label)
    noticed += _check_row(case)
    if probe is not None:
        noticed += [*_check_frames(probe, case.image), *_check_times(probe, case.image)]
        noticed += _check_pictures(probe)
    error = next((one for one in noticed if isinstance(one, VolumetricError)), None)
    traits = None if probe is None or error is not None else take_clip_traits(probe)
    findings = [
        as_finding(one, case=case.id)
        if isinstance(one, VolumetricError)
        else Finding(*one, printable(str(case.image)), case.id)
        for one in noticed
    ]
    findings.sort(key=lambda one: one.severity != "error")
    return CheckedClip(case, tuple(findings), error, traits)


_Noticed = list[VolumetricError | Said]


def _probe(case: Case, cache: Path | None) -> tuple[Probe | None, _Noticed]:
    try:
        return probe_video(case.image, cache=cache), []
    except VolumetricError as error:
        if error.code not in _NOT_THERE and (kind := _scan_kind(case.image)):
            return None, [
                UnsupportedError(
                    "scan-among-clips",
                    f"is {kind}, in a set of clips",
                    "Take it out, or convert it to H.264 in .mp4 if it shows motion",
                    path=case.image,
                )
            ]
        return None, [error]


def _scan_kind(path: Path) -> str | None:
    if path.is_dir():
        return "a folder, as of a scan's slices or single frames"
    if is_volume_file(path):
        return "a scan by its name"
    try:
        return "a DICOM file" if path.is_file() and is_dicom_file(path) else None
    except UnreadableFileError:  # only its name says DICOM
        return "a DICOM file by its name"


def _check_row(case: Case) -> Iterator[Said]:
    named = [name for name in ("mask", "series") if getattr(case, name) is not None]
    if named:
        yield (
            "ignored-column",
            "warning",
            f"{' and '.join(named)} given for a clip, and not used",
            "Leave the cell empty; clips have labels",
        )


def _check_frames(probe: Probe, path: Path) -> Iterator[VolumetricError | Said]:
    """Damage, and frames that are not there."""
    n_bad = len(probe.corrupt)
    reason = (
        f"{n_bad} of {probe.n_frames} frames are damaged or predicted from damaged ones"
        if n_bad
        else f"{probe.n_corrupt} faults while decoding; all {probe.n_frames} frames are whole"
    )
    if 2 * n_bad >= probe.n_frames:
        yield UnreadableFileError("mostly-corrupt", reason, "Export it again", path=path)
    elif probe.n_corrupt or n_bad or probe.first_lost is not None:
        if probe.first_lost is not None:
            reason += f"; something was lost before frame {probe.first_lost}"
        remedy = "Export it again, or cut out what is whole: a damaged frame is never shown"
        yield "corrupt-frames", "warning", reason, remedy
    if probe.n_claimed is not None and probe.n_claimed != probe.n_frames:
        # Old encoders for AVI count a frame that holds nothing.
        apart = abs(probe.n_claimed - probe.n_frames)
        yield (
            "frame-count-differs",
            "note" if apart == 1 else "warning",
            f"{probe.n_frames} frames were decoded, {probe.n_claimed} are claimed",
            "Check that it is whole: it may have been cut off",
        )
    elif probe.n_claimed is None and probe.claimed_s and probe.duration_s:
        missing_s = probe.claimed_s - probe.duration_s
        if missing_s > max(0.5, 0.1 * probe.claimed_s):
            yield (
                "duration-differs",
                "note" if probe.has_audio else "warning",  # which may last longer
                f"its pictures last {probe.duration_s:.2f} s, {probe.claimed_s:.2f} are claimed",
                "Check that it is whole: it may have been cut off",
            )


def _check_times(probe: Probe, path: Path) -> Iterator[VolumetricError | Said]:
    """When frames are shown, and for how long."""
    try:
        rate = check_window(probe, 0.0, None, None, path)
        choose_numbers(probe, 0.0, None, rate)
    except VolumetricError as error:
        yield error
        return
    if probe.variable:
        yield (
            "variable-rate",
            "note",
            f"frames are shown for different times, {1000 / rate:.0f} ms in the median",
            "Nothing to do: it is read by time",
        )
    if not _SLOWEST <= rate <= _FASTEST:
        yield (
            "odd-rate",
            "warning",
            f"has {rate:.3g} frames a second",
            "Check its times: motion is learned by the second",
        )
    if probe.n_frames == 1:
        yield "short-clip", "warning", "holds a single frame", "Leave it out: nothing moves"


def _check_pictures(probe: Probe) -> Iterator[Said]:
    """What the frames show, and how they are stored."""
    yield from _check_stills(probe)
    if probe.rotation or probe.mirrored:
        turned = f"turned, and shown {probe.rotation} degrees to the left of that"
        how = ["mirrored"] * probe.mirrored + [turned] * (probe.rotation > 0)
        yield (
            "stored-turned",
            "note",
            f"is stored {' and '.join(how)}",
            "Nothing to do: it is read upright",
        )
    if probe.is_interlaced:
        yield (
            "interlaced",
            "warning",
            "a frame holds two moments, in every other line",
            "Deinterlace it, if edges of what moves look like combs",
        )
    if probe.is_resized:
        yield (
            "frame-size-changes",
            "warning",
            "frames change their size within the file",
            "Cut the file where it changes; they would be stretched to one size",
        )
    if min(probe.width, probe.height) < _SMALLEST:
        yield (
            "tiny-frames",
            "warning",
            f"frames have {probe.width} x {probe.height} pixels",
            "Check that it is no thumbnail",
        )


def _check_stills(probe: Probe) -> Iterator[Said]:
    if probe.n_frames == 1:
        return
    still_s = probe.longest_still / probe.rate if probe.rate else 0.0
    remedy = "Check that it is whole, and that recording did not stop"
    if probe.longest_still == probe.n_frames:
        yield "frozen-frames", "warning", f"all {probe.n_frames} frames are equal", remedy
    elif still_s > _FROZEN_S and probe.longest_still >= _FEWEST_FROZEN:
        reason = f"{probe.longest_still} frames in a row are equal, for {still_s:.1f} s"
        yield "frozen-frames", "warning", reason, remedy
    else:
        n_repeated = probe.n_frames - sum(1 for _ in groupby(probe.checksums))
        if n_repeated >= _REPEATED_SHARE * probe.n_frames:
            yield (
                "repeated-frames",
                "note",
                f"{n_repeated} of {probe.n_frames} frames repeat the one before: filmed at a "
                "lower rate",
                "Nothing to do, unless all frames are meant to differ",
            )

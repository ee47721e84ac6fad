"""What only shows across clips: copies, labels that cannot be learned, outliers, give-aways."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volumetric.cases import Case
from volumetric.check.labels import check_labels, label_set
from volumetric.check.outliers import list_ids
from volumetric.errors import printable
from volumetric.findings import Finding, Severity
from volumetric.io.video import Probe

_FEWEST = 8  # cases: with less, one cannot say which is unlike the others
_SIGMAS = 6.0  # as for scans
_GIVEN_AWAY = 0.15  # more labels guessed from the format than by always taking the commonest

# Trait: code, the smallest factor that counts, how it is said, what to do. Clips of one set
# honestly differ by more than scans do; all are brought to one size and rate.
_COMPARED: Mapping[str, tuple[str, float, str, str]] = {
    "aspect": (
        "aspect-outlier",
        1.5,
        "is {:.2f} times as wide as high",
        "Check whether it is turned or has borders",
    ),
    "size": (
        "frame-size-outlier",
        3.0,
        "has a frame side of {:.0f} pixels",
        "Check that it is no thumbnail, and of the same kind",
    ),
    "rate": (
        "frame-rate-outlier",
        2.0,
        "has {:.4g} frames a second",
        "Check that its times are right: slow motion or time lapse looks like another action",
    ),
    "duration_s": (
        "duration-outlier",
        5.0,
        "lasts {:.2f} s",
        "Check that it is cut to what its label says",
    ),
}


@dataclass(frozen=True)
class ClipTraits:
    """What the cohort's checks compare; plain values, so that they can be kept as JSON.

    All are as in the `Probe` but `frames_hash`, of the decoded frames: the same whatever
    container they lie in.
    """

    sha256: str
    frames_hash: str
    codec: str
    container: str
    width: int
    height: int
    n_frames: int
    rate: float | None
    duration_s: float | None
    variable: bool
    has_audio: bool
    longest_still: int


Clips = Sequence[tuple[Case, ClipTraits]]


def take_clip_traits(probe: Probe) -> ClipTraits:
    """What the cohort's checks compare of a probed video."""
    return ClipTraits(
        sha256=probe.sha256,
        frames_hash=_hash_frames(probe),
        codec=probe.codec,
        container=probe.container,
        width=probe.width,
        height=probe.height,
        n_frames=probe.n_frames,
        rate=probe.rate,
        duration_s=probe.duration_s,
        variable=probe.variable,
        has_audio=probe.has_audio,
        longest_still=probe.longest_still,
    )


def check_clips(
    seen: Clips, *, labels: Sequence[str] | None, shortest_s: float = 0.0
) -> list[Finding]:
    """What is odd about clips side by side; `labels` are the manifest's.

    `shortest_s` is how many seconds a network sees at a time.

    Outliers are beyond 6 times the median absolute deviation, scaled to a normal distribution's
    sigma, of the logarithm, and beyond a factor; where more than a tenth lies far out, the set is
    a mixture, which is noted once. Subjects and folds by themselves: `cohort.check_listing`.
    """
    return [
        *_check_copies(seen),
        *check_labels([case for case, _ in seen], labels or ()),
        *_check_outliers(seen),
        *_check_giveaway(seen),
        *_check_short(seen, shortest_s),
    ]


def _hash_frames(probe: Probe) -> str:
    digest = hashlib.blake2b(f"{probe.width}x{probe.height}".encode(), digest_size=16)
    digest.update(struct.pack(f"<{len(probe.checksums)}I", *probe.checksums))
    return digest.hexdigest()


def _check_copies(seen: Clips) -> Iterator[Finding]:
    """The first of equal clips stands, the others are reported; all where labels contradict."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case, traits in seen:
        groups[traits.frames_hash].append(case)
    for first, *others in groups.values():
        labelled = [case for case in (first, *others) if case.label is not None]
        if len({label_set(case) for case in labelled}) > 1:
            yield from _contradictory(labelled)
            continue
        for case in others:
            leaks = case.subject != first.subject and case.fold != first.fold
            yield _of_case(
                case,
                "duplicate-across-folds" if leaks else "duplicate-clip",
                "error" if leaks else "warning",
                f"shows the same frames as {first.id}"
                + (f", of another subject ({_folds(first, case)})" if leaks else ""),
                "Take one out, or give both one subject and one fold: what is learned would leak"
                if leaks
                else "Take one out if it is a copy",
            )


def _folds(first: Case, case: Case) -> str:
    there, here = ("none" if one.fold is None else one.fold for one in (first, case))
    return f"that is in fold {there}, this in {here}"


def _contradictory(cases: Sequence[Case]) -> Iterator[Finding]:
    for case in cases:
        others = [f"{one.id} ({one.label})" for one in cases if one is not case]
        yield _of_case(
            case,
            "contradictory-labels",
            "error",
            f"is labelled {case.label}, and shows the same frames as {list_ids(others)}",
            "Find out which label is right, and take the others out",
        )


def _check_outliers(seen: Clips) -> Iterator[Finding]:
    for trait, (code, factor, said, remedy) in _COMPARED.items():
        known = [(case, value) for case, traits in seen if (value := _measure(traits, trait))]
        if len(known) < _FEWEST:
            continue
        values = np.array([value for _, value in known])
        strange = _unlike(np.log(values), np.log(factor))
        usual = float(np.median(values[~strange]))
        odd = [case for (case, _), far in zip(known, strange, strict=True) if far]
        if len(odd) > max(2, len(known) / 10):
            yield Finding(
                "mixed-clips",
                "note",
                f"of {len(odd)} cases each {said.format(float(np.median(values[strange])))} in "
                f"the median, of {len(known) - len(odd)} each {said.format(usual)}: "
                f"{list_ids([case.id for case in odd])}",
                "Nothing to do, if they are meant to be one set",
            )
            continue
        for (case, value), far in zip(known, strange, strict=True):
            if far:
                reason = f"{said.format(value)}, the median is {usual:.4g}"
                yield _of_case(case, code, "warning", reason, remedy)


def _measure(traits: ClipTraits, trait: str) -> float | None:
    match trait:
        case "aspect":
            return traits.width / traits.height
        case "size":
            return float(np.sqrt(traits.width * traits.height))
        case "rate":
            return traits.rate
    return traits.duration_s


def _unlike(values: NDArray[np.float64], floor: float) -> NDArray[np.bool_]:
    # 1.4826 makes the median absolute deviation that of a normal distribution's sigma.
    apart = np.abs(values - np.median(values))
    far = apart > max(_SIGMAS * 1.4826 * float(np.median(apart)), floor + 1e-9)
    return np.asarray(far)


def _check_giveaway(seen: Clips) -> Iterator[Finding]:
    """Whether a clip's format tells its label: then its origin may be learned for its content.

    Each label is guessed as the commonest among other subjects' clips of the same codec,
    container and rate (of all others' where there is none), without looking at any frame.
    """
    known = [(case, _format(traits)) for case, traits in seen if case.label is not None]
    if len({case.subject for case, _ in known}) < _FEWEST:
        return
    by_format: dict[str, Counter[str]] = defaultdict(Counter)
    of_subject: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for case, kind in known:
        for key in (kind, ""):  # "" for all formats together
            by_format[key][str(case.label)] += 1
            of_subject[case.subject, key][str(case.label)] += 1
    right = Counter[str]()
    for case, kind in known:
        base, like = (by_format[key] - of_subject[case.subject, key] for key in ("", kind))
        right["base"] += _commonest(base) == case.label
        right["format"] += _commonest(like or base) == case.label
    shares = right["format"] / len(known), right["base"] / len(known)
    if shares[0] - shares[1] >= _GIVEN_AWAY:
        yield Finding(
            "format-tells-label",
            "warning",
            f"codec, container and rate alone tell {shares[0]:.0%} of other subjects' labels "
            f"({shares[1]:.0%} by always saying the commonest)",
            "Expect that where a clip comes from is learned for what it shows; bring more sources "
            "of each label",
        )


def _check_short(seen: Clips, shortest_s: float) -> Iterator[Finding]:
    for case, traits in seen:
        if traits.duration_s is not None and traits.n_frames > 1:
            frame_s = traits.duration_s / traits.n_frames
            if traits.duration_s < shortest_s - frame_s / 2:
                yield _of_case(
                    case,
                    "short-clip",
                    "warning",
                    f"lasts {traits.duration_s:.2f} s, the network sees {shortest_s:.3g}",
                    "Show it less (model.frames, model.stride), or leave it out: its last frame "
                    "is held",
                )


def _format(traits: ClipTraits) -> str:
    rate = "" if traits.rate is None else round(traits.rate)
    return f"{traits.codec} {traits.container} {rate}"


def _commonest(counts: Counter[str]) -> str | None:
    return min(counts, key=lambda label: (-counts[label], label), default=None)


def _of_case(case: Case, code: str, severity: Severity, reason: str, remedy: str) -> Finding:
    return Finding(code, severity, reason, remedy, printable(str(case.image)), case.id)

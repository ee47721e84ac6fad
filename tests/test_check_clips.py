"""The data doctor on clips: every finding provoked, none where nothing is wrong; folders listed."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.listing import list_tree, write_manifest
from pipeline.manifest import load_cases, load_data_set
from tests.conftest import save
from tests.videos import (
    FAMILIES,
    cut,
    draw_number,
    drop_packets,
    encode,
    overstate_avi,
    uneven,
    write_sound,
)
from volumetric.cases import Case
from volumetric.check.clip import CheckedClip, check_clip
from volumetric.check.clips import ClipTraits, check_clips
from volumetric.check.codes import CODES
from volumetric.check.cohort import check_listing
from volumetric.errors import ConfigError, ManifestError, OutputError, VolumetricError
from volumetric.findings import Finding
from volumetric.folds import with_folds
from volumetric.io.video import probe_video, read_clip, write_video

DATA = Path(__file__).parents[2] / "shared" / "data"
LABELS = ("walk", "fall")
SMALL: dict[str, Any] = {"n_frames": 30, "size": (64, 80)}


def look(path: Path, *, row: dict[str, Any] | None = None, **how: Any) -> CheckedClip:
    return check_clip(Case(path.stem, "someone", None, path, **(row or {})), **how)


def described(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    assert all(one.code in CODES for one in findings)
    return {(one.code, one.severity) for one in findings}


# Clips by themselves.

_QUIET = ("h264-mp4-faststart-sound", "hevc-10-bit-mkv", "vp9-webm", "gif", "mpeg4-avi-b")
_QUIET += ("h264-ts", "mjpeg-mov", "h264-444-odd", "wmv2-wmv", "h264-flv")


@pytest.mark.parametrize("name", _QUIET)
def test_a_sound_clip_raises_nothing(name: str, tmp_path: Path) -> None:
    path = FAMILIES[name].make(tmp_path / f"a{FAMILIES[name].suffix}")
    checked = look(path, row={"label": "walk"}, labels=LABELS)
    assert checked.findings == ()
    assert checked.error is None
    assert checked.traits is not None
    assert ClipTraits(**json.loads(json.dumps(asdict(checked.traits)))) == checked.traits


def _text(path: Path) -> Path:
    path.write_text("not a video\n" * 100)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _dicom(path: Path) -> Path:
    path.write_bytes(bytes(128) + b"DICM" + bytes(200))
    return path


def _touch(path: Path) -> Path:
    path.touch()
    return path


def _lose(lost: set[int], gop: int) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        options = {"bf": "0", "g": str(gop)}
        source = encode(path.with_name("source.mp4"), **SMALL, options=options)
        return drop_packets(path, source, lost)

    return make


def _show(numbers: Iterable[int]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        frames = (torch.from_numpy(draw_number(number, 64, 80)) for number in numbers)
        write_video(path, frames, rate=25, crf=1)
        return path

    return make


def _stills(path: Path) -> Path:
    """Without loss, so that what is drawn alike is decoded alike."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 80, "yuv420p"
        for place in range(60):
            number = place if place < 10 else place // 2 if path.stem == "twice" else 10
            number = 0 if path.stem == "always" else number
            image = av.VideoFrame.from_ndarray(draw_number(number, 64, 80))
            file.mux(stream.encode(image))
        file.mux(stream.encode())
    return path


def _two_sizes(path: Path) -> Path:
    parts = [encode(path.with_name(f"{n}.ts"), n_frames=20, size=(n, 96)) for n in (64, 80)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _encoded(**how: Any) -> Callable[[Path], Path]:
    return lambda path: encode(path, **{**SMALL, **how})


_TURNED = _encoded(rotation=90)
_FIELDS = _encoded(options={"x264-params": "tff=1:interlaced=1"})

BROKEN: dict[str, tuple[str, str, str, Callable[[Path], Path]]] = {
    "missing": ("missing-file", "error", "a.mp4", lambda path: path),
    "empty": ("empty-file", "error", "a.mp4", _touch),
    "text": ("not-a-video", "error", "a.mp4", _text),
    "cut": ("not-a-video", "error", "a.mp4", lambda path: cut(encode(path, **SMALL), 0.7)),
    "sound": ("audio-only", "error", "a.mp4", write_sound),
    "scan": ("scan-among-clips", "error", "a.nii.gz", lambda p: save(p, np.ones((4, 4, 4)))),
    "slices": ("scan-among-clips", "error", "a", _folder),
    "dicom": ("scan-among-clips", "error", "a.dcm", _dicom),
    "most-lost": ("mostly-corrupt", "error", "a.mp4", _lose({3}, 250)),
    "some-lost": ("corrupt-frames", "warning", "a.mp4", _lose({24}, 10)),
    "overstated": (
        "frame-count-differs",
        "warning",
        "a.avi",
        lambda path: overstate_avi(encode(path, "mpeg4", **SMALL)),
    ),
    "cut-mkv": (
        "duration-differs",
        "warning",
        "a.mkv",
        lambda path: cut(encode(path, n_frames=90, options={"g": "1"}), 0.6),
    ),
    "uneven": ("variable-rate", "note", "a.mp4", _encoded(ticks=uneven(30))),
    "turned": ("stored-turned", "note", "a.mov", _TURNED),
    "fields": ("interlaced", "warning", "a.mp4", _FIELDS),
    "one-frame": ("short-clip", "warning", "a.mp4", _encoded(n_frames=1)),
    "tiny": ("tiny-frames", "warning", "a.mp4", _encoded(size=(16, 64))),
    "slow": ("odd-rate", "warning", "a.mkv", _encoded(n_frames=5, ticks=range(0, 10000, 2000))),
    "always": ("frozen-frames", "warning", "always.mkv", _stills),
    "stopped": ("frozen-frames", "warning", "stopped.mkv", _stills),
    "twice": ("repeated-frames", "note", "twice.mkv", _stills),
    "two-sizes": ("frame-size-changes", "warning", "a.ts", _two_sizes),
}
# What a fault brings with it.
_ALSO = {
    "most-lost": {"variable-rate"},
    "some-lost": {"variable-rate"},
    "cut-mkv": {"corrupt-frames"},
    "two-sizes": {"unordered-times", "corrupt-frames"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_clip(name: str, tmp_path: Path) -> None:
    code, severity, file, make = BROKEN[name]
    checked = look(make(tmp_path / file), row={"label": "walk"}, labels=LABELS)
    found = {one for one in described(checked.findings) if one[0] not in _ALSO.get(name, set())}
    assert found == {(code, severity)}
    if severity == "error":
        assert checked.error is not None
        assert checked.error.code == code
    assert (checked.traits is None) == (checked.error is not None)
    assert all(one.case == Path(file).stem and one.path for one in checked.findings)


def test_what_the_doctor_lets_pass_can_be_read(tmp_path: Path) -> None:
    """At any rate and one size, as clips are prepared; but for damage, of which it warns."""
    for name, (code, _, file, make) in BROKEN.items():
        folder = _folder(tmp_path / name)
        path = make(folder / file)
        checked = look(path)
        if checked.error is None and "corrupt-frames" not in {one.code for one in checked.findings}:
            assert read_clip(path, rate=10, size=(32, 40)).shape[1:] == (32, 40), name
        elif checked.error is not None and code != "mostly-corrupt":
            with pytest.raises(VolumetricError):
                read_clip(path, rate=10, size=(32, 40))


def test_shorter_than_a_clip_needs(tmp_path: Path) -> None:
    checked = look(encode(tmp_path / "a.mp4", **SMALL))  # 1.2 s
    assert checked.traits is not None
    seen = [(checked.case, checked.traits)]
    assert check_clips(seen, labels=None, shortest_s=1.2) == []
    (finding,) = check_clips(seen, labels=None, shortest_s=1.3)
    assert (finding.code, finding.severity, finding.case) == ("short-clip", "warning", "a")
    assert "1.20 s" in finding.reason
    assert "1.3" in finding.reason


@pytest.mark.parametrize(
    ("label", "multi_label", "found"),
    [
        ("walk", False, set()),
        ("fall; walk", True, set()),
        (None, True, set()),
        (None, False, {("no-label", "warning")}),
        ("walks", False, {("unknown-label", "error")}),
        ("walk;fall", False, {("unknown-label", "error")}),
        ("walk;", True, {("unknown-label", "error")}),
    ],
)
def test_labels(
    label: str | None, multi_label: bool, found: set[tuple[str, str]], tmp_path: Path
) -> None:
    path = encode(tmp_path / "a.mp4", **SMALL)
    checked = look(path, row={"label": label}, labels=LABELS, multi_label=multi_label)
    assert described(checked.findings) == found
    assert look(path, row={"label": label}).findings == ()
    if found and label and label.endswith("fall"):
        assert "multi_label" in checked.findings[0].remedy


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    row = {"label": "swim", "mask": tmp_path / "mask.nii.gz", "series": "1.2"}
    checked = look(_TURNED(tmp_path / "a.mov"), row=row, labels=LABELS)
    assert [(one.code, one.severity) for one in checked.findings] == [
        ("unknown-label", "error"),
        ("ignored-column", "warning"),
        ("stored-turned", "note"),
    ]
    assert "mask and series" in checked.findings[1].reason
    path = _text(tmp_path / os.fsdecode(b"b\xff\n.mp4"))
    checked = check_clip(Case("b", "b", None, path, **row), labels=LABELS)
    assert [one.code for one in checked.findings][:2] == ["not-a-video", "unknown-label"]
    assert checked.error is not None
    assert checked.error.code == "not-a-video"
    assert all(str(one).isprintable() for one in checked.findings)


def test_a_clip_is_decoded_once_for_all(tmp_path: Path) -> None:
    path, cache = encode(tmp_path / "a.mp4", **SMALL), tmp_path / "probes"
    checked = look(path, cache=cache)
    (kept,) = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    assert look(path, cache=cache).traits == checked.traits
    assert kept.stat().st_mtime_ns == stamp


# Clips side by side.


def traits(number: int = 0, **values: Any) -> ClipTraits:
    """Of an honest clip, no two alike."""
    rng = np.random.default_rng(number)
    plain = {
        "sha256": f"{number:064x}",
        "frames_hash": f"{number:032x}",
        "codec": "h264",
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "width": int(rng.integers(300, 340)),
        "height": int(rng.integers(220, 260)),
        "n_frames": 100,
        "rate": float(rng.uniform(24, 30)),
        "duration_s": float(rng.uniform(2, 6)),
        "variable": False,
        "has_audio": False,
        "longest_still": 1,
    }
    return ClipTraits(**{**plain, **values})


Seen = list[tuple[Case, ClipTraits]]


def cohort(n_cases: int = 40) -> Seen:
    """Two clips of each subject, of both labels, in five folds."""
    return [
        (
            Case(
                f"clip_{number}",
                f"person_{number // 2}",
                number // 2 % 5,
                Path(f"clip_{number}.mp4"),
                label=LABELS[number % 2],
            ),
            traits(number),
        )
        for number in range(n_cases)
    ]


def change(seen: Seen, number: int, *, row: dict[str, Any] | None = None, **values: Any) -> Seen:
    case, held = seen[number]
    changed = replace(case, **(row or {})), replace(held, **values)
    return [*seen[:number], changed, *seen[number + 1 :]]


def test_a_sound_set_of_clips_raises_nothing() -> None:
    assert check_clips(cohort(), labels=LABELS) == []
    assert check_clips(cohort(), labels=None) == []
    assert check_listing([case for case, _ in cohort(60)]) == []
    assert check_clips([], labels=LABELS) == []


_ODD: dict[str, dict[str, Any]] = {
    "aspect-outlier": {"width": 220, "height": 330},
    "frame-size-outlier": {"width": 80, "height": 60},
    "frame-rate-outlier": {"rate": 120.0},
    "duration-outlier": {"duration_s": 90.0},
}


@pytest.mark.parametrize("code", _ODD)
def test_a_clip_unlike_the_others(code: str) -> None:
    (finding,) = check_clips(change(cohort(), 7, **_ODD[code]), labels=LABELS)
    assert (finding.code, finding.severity, finding.case) == (code, "warning", "clip_7")
    unknown = change(cohort(), 7, rate=None, duration_s=None)
    assert check_clips(unknown, labels=LABELS) == []
    many = cohort()
    for number in range(6):
        many = change(many, number, **_ODD[code])
    (mixed,) = check_clips(many, labels=LABELS)
    assert (mixed.code, mixed.severity) == ("mixed-clips", "note")
    assert "clip_0, clip_1" in mixed.reason
    few = change(cohort(6), 3, **_ODD[code])
    assert described(check_clips(few, labels=None)) == set()


def test_a_clip_in_another_container_is_a_copy(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", **SMALL)
    copy = drop_packets(tmp_path / "b.mkv", path, set())
    other = encode(tmp_path / "c.mp4", **{**SMALL, "n_frames": 29})
    held = [look(one).traits for one in (path, copy, other)]
    assert all(held)
    assert held[0].sha256 != held[1].sha256
    assert held[0].frames_hash == held[1].frames_hash != held[2].frames_hash
    assert {p.checksums for p in map(probe_video, (path, copy))} == {probe_video(path).checksums}


@pytest.mark.parametrize(
    ("row", "code", "severity"),
    [
        ({}, "duplicate-across-folds", "error"),
        ({"fold": 0}, "duplicate-clip", "warning"),
        ({"subject": "person_0"}, "duplicate-clip", "warning"),
        ({"label": None}, "duplicate-across-folds", "error"),
    ],
)
def test_copies(row: dict[str, Any], code: str, severity: str) -> None:
    seen = change(cohort(), 12, row={"fold": 1, **row}, frames_hash=cohort()[0][1].frames_hash)
    (finding,) = check_clips(seen, labels=None)
    assert (finding.code, finding.severity, finding.case) == (code, severity, "clip_12")
    assert "clip_0" in finding.reason


def test_one_clip_under_two_labels() -> None:
    found = check_clips(change(cohort(), 1, frames_hash=traits(0).frames_hash), labels=LABELS)
    assert [(one.code, one.case) for one in found] == [
        ("contradictory-labels", "clip_0"),
        ("contradictory-labels", "clip_1"),
    ]
    assert "clip_1 (fall)" in found[0].reason
    reordered = change(cohort(), 0, row={"label": "a; b"})
    reordered = change(reordered, 1, row={"label": "b;a"}, frames_hash=traits(0).frames_hash)
    assert described(check_clips(reordered, labels=None)) == {("duplicate-clip", "warning")}


def test_labels_that_cannot_be_learned_or_scored() -> None:
    seen = cohort()
    assert described(check_clips(seen, labels=(*LABELS, "swim"))) == {("unseen-label", "warning")}
    one_fold = [
        (replace(case, label="swim") if case.fold == 3 and case.label == "fall" else case, held)
        for case, held in seen
    ]
    found = check_clips(one_fold, labels=(*LABELS, "swim"))
    assert described(found) == {("untrained-label", "error"), ("unscored-label", "warning")}
    assert "fold 3" in next(one.reason for one in found if one.code == "unscored-label")
    loose = [(replace(case, fold=None), held) for case, held in seen]
    lone = change(loose, 3, row={"label": "swim"})
    found = check_clips(lone, labels=(*LABELS, "swim"))
    assert described(found) == {("label-of-few-subjects", "warning")}
    few = change(lone, 5, row={"label": "swim"})
    found = check_clips(few, labels=(*LABELS, "swim"))
    assert described(found) == {("label-of-few-subjects", "note")}
    several = [(replace(case, label="walk;fall"), held) for case, held in seen]
    assert check_clips(several, labels=LABELS) == []


def test_a_format_that_tells_the_label() -> None:
    told = [
        (case, replace(held, rate=25.0, codec="h264" if case.label == "walk" else "mpeg4"))
        for case, held in cohort()
    ]
    (finding,) = check_clips(told, labels=LABELS)
    assert (finding.code, finding.severity) == ("format-tells-label", "warning")
    assert "100%" in finding.reason
    # A format of each subject's own, with a label of its own, tells nothing of other subjects.
    own = [
        (replace(case, label=LABELS[n // 2 % 2]), replace(held, codec=case.subject))
        for n, (case, held) in enumerate(cohort())
    ]
    assert "format-tells-label" not in {one.code for one in check_clips(own, labels=None)}


def test_a_group_on_both_sides_of_a_fold() -> None:
    cases = [case for case, _ in cohort(60)]
    cases[4] = replace(cases[4], fold=1)
    (finding,) = check_listing(cases)
    assert (finding.code, finding.case) == ("subject-in-two-folds", "clip_5")


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=40), st.sampled_from([1.0, 7.5]))
def test_what_is_odd_does_not_depend_on_unit_or_order(values: list[float], unit: float) -> None:
    def odd(order: list[int]) -> set[str | None]:
        seen = [
            (
                Case(str(n), str(n), None, Path("a")),
                traits(n, duration_s=unit * values[n], rate=25.0),
            )
            for n in order
        ]
        return {one.case for one in check_clips(seen, labels=None) if one.case}

    order = list(range(len(values)))
    assert odd(order) == odd(order[::-1])
    assert len(odd(order)) <= max(2, len(values) / 10)


# A folder for each class.


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"video")
    return folder


FIR = ("walk/v_walk_g01_c01.mp4", "walk/v_walk_g02_c01.mp4", "fall/v_fall_g01_c02.avi")


def test_a_folder_for_each_class_becomes_a_manifest(tmp_path: Path) -> None:
    folder = tree(tmp_path / "clips", *FIR, "fall/more/x_g03_y.MKV")
    path, findings = write_manifest(folder, tmp_path / "new" / "fir.v2", group=r"_g(\d+)_")
    assert path == tmp_path / "new" / "fir.v2.yaml"
    assert [(one.code, one.severity) for one in findings] == [("subjects-found", "note")]
    assert "4 clips of 3 subjects" in findings[0].reason
    data_set = load_data_set(path)
    assert (data_set.name, data_set.modality) == ("fir.v2", "video")
    assert data_set.labels == ("fall", "walk")
    assert not data_set.sides_matter
    cases = load_cases(path, root=folder)
    assert {(case.id, case.subject, case.label) for case in cases} == {
        ("v_walk_g01_c01", "01", "walk"),
        ("v_walk_g02_c01", "02", "walk"),
        ("v_fall_g01_c02", "01", "fall"),
        ("x_g03_y", "03", "fall"),
    }
    assert all(case.image.is_file() for case in cases)
    assert len({case.fold for case in with_folds(cases)}) == 3
    assert sorted(one.name for one in path.parent.iterdir()) == ["fir.v2.csv", "fir.v2.yaml"]


def test_a_manifest_is_never_written_over(tmp_path: Path) -> None:
    folder = tree(tmp_path / "clips", *FIR)
    path, _ = write_manifest(folder, tmp_path / "fir.yaml", group=r"_g(\d+)_")
    before = path.read_bytes(), path.with_suffix(".csv").read_bytes()
    assert write_manifest(folder, tmp_path / "fir", group=r"_g(\d+)_")[0] == path
    tree(folder, "swim/v_swim_g02_c01.mp4")
    with pytest.raises(OutputError, match="already-there"):
        write_manifest(folder, tmp_path / "fir", group=r"_g(\d+)_")
    path.with_suffix(".csv").unlink()  # the other alone is not written over either
    with pytest.raises(OutputError, match="already-there"):
        write_manifest(folder, tmp_path / "fir", group=r"_g(\d+)_")
    assert path.read_bytes() == before[0]
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["fir.yaml"]
    with pytest.raises(ConfigError, match="bad-name"):
        write_manifest(folder, Path(), group=None)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="unwritable"):
        write_manifest(folder, tmp_path / "file" / "fir", group=None)


def test_what_is_passed_over_is_said(tmp_path: Path) -> None:
    folder = tree(tmp_path / "clips", *FIR, "loose.mp4", "walk/notes.txt", ".hidden/a.mp4")
    tree(folder, "empty/readme.md", "walk/.a.mp4", "walk/a\tb.mp4", "walk/c.mp4 ")
    (folder / "bare").mkdir()
    (folder / "linked").symlink_to(tmp_path)
    tree(folder, os.fsdecode(b"walk/d\xff.mp4"))
    cases, findings = list_tree(folder, group=None)
    assert [case.image.name for case in cases] == [Path(name).name for name in sorted(FIR)]
    assert [case.subject for case in cases] == [case.id for case in cases]
    found = {one.code: one for one in findings}
    assert described(findings) == {
        ("no-class", "warning"),
        ("unsafe-name", "warning"),
        ("empty-class", "warning"),
        ("links-not-followed", "warning"),
        ("not-looked-at", "note"),
        ("no-group", "warning"),
    }
    assert found["empty-class"].reason.endswith("bare, empty")
    assert found["no-class"].reason.endswith("loose.mp4")
    assert found["unsafe-name"].reason.startswith("2 ")
    assert found["not-looked-at"].reason.startswith("3 ")
    assert all(str(one).isprintable() for one in findings)


@pytest.mark.parametrize(
    ("names", "group", "code", "said"),
    [
        (("walk/a.mp4", "walk/b.mp4"), None, "bad-classes", "one class"),
        (("a.mp4", "b.mp4"), None, "bad-classes", "no folder"),
        (("walk/a.mp4", "a;b/b.mp4"), None, "bad-classes", "a;b"),
        (("walk/a.mp4", "mean/b.mp4"), None, "bad-classes", "mean"),
        (FIR, r"_c0(\d", "bad-pattern", "regular"),
        (FIR, r"walk_g(\d+)", "no-subject", "1 of 3 files: fall/v_fall_g01_c02.avi"),
        (FIR, r"_z(\d+)?", "no-subject", "3 of 3"),
        (FIR, r"v_", "too-few-subjects", "one subject"),
    ],
)
def test_trees_that_are_refused(
    names: tuple[str, ...], group: str | None, code: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises((ManifestError, ConfigError)) as caught:
        write_manifest(tree(tmp_path / "clips", *names), tmp_path / "out", group=group)
    assert caught.value.code == code
    assert said in caught.value.reason
    assert code in CODES
    assert not (tmp_path / "out.yaml").exists()


def test_at_most_three_files_are_named(tmp_path: Path) -> None:
    folder = tree(tmp_path, *FIR, *(f"walk/x{n}.mp4" for n in range(5)))
    with pytest.raises(ManifestError, match=r"x0\.mp4, walk/x1\.mp4, walk/x2\.mp4 and 2 more"):
        list_tree(folder, group=r"_g(\d+)_")
    with pytest.raises(VolumetricError, match="missing-file"):
        list_tree(folder / "none", group=None)


def test_subjects_by_folder_or_by_the_whole_match(tmp_path: Path) -> None:
    folder = tree(tmp_path, "walk/p1/a.mp4", "walk/p2/b.mp4", "fall/p1/c.mp4")
    cases, _ = list_tree(folder, group="/(p[0-9])/")
    assert [case.subject for case in cases] == ["p1", "p1", "p2"]
    cases, _ = list_tree(folder, group="[ab]|c")
    assert [case.subject for case in cases] == ["c", "a", "b"]  # of the name, not of the path


def test_sides_named_by_labels_are_kept_apart(tmp_path: Path) -> None:
    folder = tree(tmp_path / "clips", "turn_left/a.mp4", "turn_Right/b.mp4", "upright/c.mp4")
    path, findings = write_manifest(folder, tmp_path / "out", group=None)
    assert load_data_set(path).sides_matter
    said = next(one for one in findings if one.code == "sides-matter")
    assert "turn_Right, turn_left)" in said.reason


def test_ids_are_safe_and_unique(tmp_path: Path) -> None:
    names = ["walk/a b.mp4", "walk/a+b.mp4", "fall/A_b.mp4", "fall/x/a_b.avi", "walk/...mp4"]
    names += ["fall/ü-1.mp4", f"walk/{'l' * 200}.mp4", "walk/x/a_b.mp4", "walk/x/a_b.mkv"]
    folder = tree(tmp_path / "clips", *names)
    path, _ = write_manifest(folder, tmp_path / "out", group=None)
    cases = load_cases(path, root=folder)  # which refuses unsafe and equal ids
    assert len({case.id.casefold() for case in cases}) == len(cases)
    assert "ü-1" in {case.id for case in cases}
    assert max(len(case.id) for case in cases) <= 102


_NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12
)


@given(st.sets(st.tuples(_NAMES, _NAMES), max_size=8))
def test_whatever_files_are_called(
    tmp_path_factory: pytest.TempPathFactory, names: set[tuple[str, str]]
) -> None:
    """What is listed is read back; what cannot be is said or refused."""
    folder = tmp_path_factory.mktemp("names")
    tree(folder / "clips", "one/a.mp4", "two/a.mp4")
    for parent, name in names:
        if parent not in (".", ".."):
            tree(folder / "clips", f"{parent}/{name}.mp4")
    try:
        path, findings = write_manifest(folder / "clips", folder / "out", group=None)
    except ManifestError:
        n_bad = sum(bool({";", "|"} & set(one)) or one != one.strip() for one, _ in names)
        assert n_bad > 0
        return
    cases = load_cases(path, root=folder / "clips")
    assert all(case.image.is_file() for case in cases)
    assert {case.label for case in cases} == set(load_data_set(path).labels)
    n_unsafe = sum(int(one.reason.split()[0]) for one in findings if one.code == "unsafe-name")
    on_disk = [path.relative_to(folder / "clips") for path in (folder / "clips").rglob("*.mp4")]
    n_hidden = sum(any(part.startswith(".") for part in path.parts) for path in on_disk)
    assert len(cases) + n_unsafe + n_hidden == len(on_disk)


# Real data: few findings, and true ones.


def check_real(cases: list[Case], labels: tuple[str, ...]) -> list[Finding]:
    def check_one(case: Case) -> CheckedClip:
        return check_clip(case, labels=labels)

    cases = with_folds(cases)
    with ThreadPoolExecutor(2) as threads:
        checked = list(threads.map(check_one, cases))
    findings = [one for clip in checked for one in clip.findings]
    seen = [(clip.case, clip.traits) for clip in checked if clip.traits]
    assert len(seen) == len(cases)
    return findings + check_clips(seen, labels=None)  # a part of the set cannot hold each label


def test_no_false_alarm_on_thermal_actions(tmp_path: Path) -> None:
    folder = DATA / "fir_action" / "clips"
    if not folder.exists():
        pytest.skip("the FIR action data set is not beside this checkout")
    path, findings = write_manifest(folder, tmp_path / "fir", group=r"_g(\d+)_")
    assert [one.code for one in findings] == ["subjects-found"]
    assert "288 clips of 21 subjects" in findings[0].reason
    labels = load_data_set(path).labels
    assert len(labels) == 9
    cases = load_cases(path, root=folder)
    truth = DATA / "fir_action" / "clips.csv"
    with truth.open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    for case in cases:
        row = rows[case.image.relative_to(folder).as_posix()]
        assert (int(case.subject), case.label) == (int(row["group"]), row["label"])
    assert check_real(cases[::8], labels) == []


def test_lung_ultrasound_is_told_by_its_format() -> None:
    folder = DATA / "pocus_ultrasound"
    if not folder.exists():
        pytest.skip("the lung ultrasound data set is not beside this checkout")
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cases = [
        Case(f"clip_{n}", row["patient"], None, folder / row["path"], label=row["label"])
        for n, row in enumerate(rows)
        if row["label"] != "viral"
    ]
    findings = check_real(cases[::3], ("covid", "pneumonia", "regular"))
    assert described(findings) == {("format-tells-label", "warning")}

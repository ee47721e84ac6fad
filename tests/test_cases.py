from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from pipeline.manifest import find_manifest, load_cases, load_data_set
from volumetric.cases import Case, read_cases, read_rows, write_cases
from volumetric.errors import ManifestError, UnreadableFileError
from volumetric.folds import draw_share, group_folds, with_folds


def _write(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text)
    return path


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    cases = [
        Case("a", "ann", 0, tmp_path / "x" / "a.nii.gz", tmp_path / "m.nii.gz"),
        Case("b", "bob", 1, tmp_path / "b c.nii.gz", None, "sick, very"),
    ]
    write_cases(tmp_path / "cases.csv", cases, root=tmp_path)
    assert read_cases(tmp_path / "cases.csv", root=tmp_path) == cases


def test_defaults(tmp_path: Path) -> None:
    path = _write(tmp_path, "id,image\na,a.nii\n")
    assert read_cases(path, root=Path("data")) == [Case("a", "a", None, Path("data/a.nii"))]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad-columns"),
        ("id,image\n", "empty-manifest"),
        ("id,imgae\na,a.nii\n", "bad-columns"),
        ("id,image,colour\na,a.nii,red\n", "bad-columns"),
        ("id,image\na,\n", "bad-row"),
        ("id,image\na,a.nii,more\n", "bad-row"),
        ("id,subject,image,mask\na,i/a.nii,m/a.nii\n", "bad-row"),
        ("id,image,mask\na,i/a.nii\n", "bad-row"),
        ("id,image\na\n", "bad-row"),
        ("id,image\na,a.nii\na,b.nii\n", "duplicate-id"),
        ("id,image\n../a,a.nii\n", "unsafe-id"),
        ("id,image\na,../../etc/passwd\n", "path-outside-root"),
        ("id,image\na,/etc/passwd\n", "path-outside-root"),
        ("id,image,fold\na,a.nii,first\n", "bad-fold"),
        ("id,image,fold,subject\na,a.nii,0,x\nb,b.nii,1,x\n", "subject-in-two-folds"),
        ("id,image,fold\na,a.nii," + "9" * 5000 + "\n", "bad-fold"),
        ("id,image,image\na,a.nii,b.nii\n", "bad-columns"),
        ('id,image\na,"' + "b" * 140_000 + "\n", "unreadable-manifest"),
    ],
)
def test_refuses_a_bad_manifest(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_cases(_write(tmp_path, text), root=tmp_path)
    assert caught.value.code == code
    assert "cases.csv" in str(caught.value)


def test_says_whether_cells_are_too_many_or_too_few(tmp_path: Path) -> None:
    path = _write(tmp_path, "id,image,mask\na,a.nii,,m.nii\nb,b.nii\n\nc,c.nii,\n")
    cases, refused = read_rows(path, root=tmp_path)
    assert [case.id for case in cases] == ["c"]
    assert cases[0].mask is None
    assert [error.reason for error in refused] == ["has cells too many", "has cells too few"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("id;image\na;b.nii\n", "separated by something"), ("id, image\na,b.nii\n", "without spaces")],
)
def test_names_the_cause_of_bad_columns(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        read_cases(_write(tmp_path, text), root=tmp_path)


def test_a_manifest_must_be_a_file_of_text(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"id,image\n\xe9,a.nii\n")
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UnreadableFileError, match="Save it as UTF-8"):
        read_cases(tmp_path / "latin.csv", root=tmp_path)
    with pytest.raises(UnreadableFileError, match="pipe"):
        read_cases(tmp_path / "pipe.csv", root=tmp_path)
    with pytest.raises(ManifestError, match="pipe"):
        load_data_set(tmp_path / "pipe.yaml")


def test_refuses_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError):
        read_cases(tmp_path / "none.csv", root=tmp_path)


@given(
    st.lists(st.integers(0, 30).map(str), min_size=40).filter(lambda s: len(set(s)) >= 5),
    st.integers(2, 5),
)
def test_no_subject_is_in_two_folds(subjects: list[str], n_folds: int) -> None:
    folds = group_folds(subjects, n_folds=n_folds)
    assert all(
        len({fold for fold, other in zip(folds, subjects, strict=True) if other == subject}) == 1
        for subject in subjects
    )


def test_folds_are_those_of_nnunet() -> None:
    names = [f"case_{number:03d}" for number in range(260)]
    for fold, (_, held_out) in enumerate(KFold(5, shuffle=True, random_state=12345).split(names)):
        ours = {name for name, k in zip(names, group_folds(names), strict=True) if k == fold}
        assert ours == {names[index] for index in held_out}


def test_too_few_subjects() -> None:
    with pytest.raises(ManifestError, match="too-few-subjects"):
        group_folds(["a", "a", "b"], n_folds=3)


def test_the_shipped_manifest_lists_the_data_set(hippocampus: Path) -> None:
    manifest = find_manifest("hippocampus")
    cases = load_cases(manifest, root=hippocampus)
    assert len(cases) == 260
    assert all(case.image.exists() and case.mask and case.mask.exists() for case in cases)
    assert load_data_set(manifest).classes == {1: "anterior", 2: "posterior"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("classes: {0: nothing}\n", "bad-manifest"),
        ("classes: {1: same, 2: same}\n", "bad-manifest"),
        ("classes: {1: mean}\n", "bad-manifest"),
        ("modality: X-ray\n", "bad-manifest"),
        ("colour: red\n", "bad-manifest"),
        ("- a\n b", "unreadable-manifest"),
        ("licence: " + "[" * 20_000, "unreadable-manifest"),
        ("licence: 2020-13-45\n", "unreadable-manifest"),
    ],
)
def test_refuses_a_bad_yaml(tmp_path: Path, change: str, code: str) -> None:
    path = tmp_path / "set.yaml"
    classes = "" if "classes" in change else "classes: {1: one}\n"
    path.write_text("name: set\ncases: set.csv\n" + classes + change)
    with pytest.raises(ManifestError) as caught:
        load_data_set(path)
    assert caught.value.code == code


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ManifestError, match="hippocampus"):
        find_manifest("hipocampus")


def test_labels_are_spread_over_folds_that_keep_subjects_together() -> None:
    cases = [
        Case(f"{n}-{k}", f"person_{n}", None, Path("x"), label="rare" if n % 5 == 0 else "common")
        for n in range(25)
        for k in range(2)
    ]
    folded = with_folds(cases)
    by_fold = {fold: [case for case in folded if case.fold == fold] for fold in range(5)}
    assert all(sum(case.label == "rare" for case in held) == 2 for held in by_fold.values())
    assert all(
        len({case.fold for case in folded if case.subject == f"person_{n}"}) == 1 for n in range(25)
    )


@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from("abc")), min_size=1, max_size=60),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.integers(0, 99),
)
def test_a_share_is_of_whole_subjects_and_every_label(
    rows: list[tuple[int, str]], one: float, other: float, seed: int
) -> None:
    label_of = dict(rows)
    cases = [
        Case(f"c{n}", f"s{subject}", None, Path("x"), label=label_of[subject])
        for n, (subject, _) in enumerate(rows)
    ]
    small, large = (draw_share(cases, share, seed=seed) for share in sorted([one, other]))
    assert [case for case in cases if case in small] == small
    assert set(small) <= set(large)
    assert {case.label for case in small} == {case.label for case in cases}
    left_out = set(cases) - set(small)
    assert not {case.subject for case in small} & {case.subject for case in left_out}
    for label in set(label_of.values()):
        n_all = sum(found == label for found in label_of.values())
        n_drawn = len({case.subject for case in small if case.label == label})
        assert n_drawn == max(1, round(min(one, other) * n_all))
    assert draw_share(cases, 1.0, seed=seed) == cases


def test_a_share_is_of_cases_where_a_subject_has_several_labels() -> None:
    """As a recording of many actions: whole ones would be far more than the share."""
    cases = [
        Case(f"{subject}-{number}", subject, 0, Path("x"), label="walk" if number % 4 else "fall")
        for subject in ("a", "b", "c")
        for number in range(40)
    ]
    few = draw_share(cases, 0.1, seed=0)
    assert len(few) == 12
    assert [case.label for case in few].count("fall") == 3
    assert set(few) <= set(draw_share(cases, 0.3, seed=0))

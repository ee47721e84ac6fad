"""Two runs side by side: what is paired, what is said of it, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest

from pipeline.compare import compare
from pipeline.comparison.pairing import pair_runs
from pipeline.comparison.wording import sentence, to_text
from pipeline.run import create_run, open_run
from pipeline.stages import find_stages
from volumetric.errors import VolumetricError
from volumetric.metrics import (
    compare_classification,
    delong_difference,
    paired_difference,
)
from volumetric.metrics.resampling import Resampling

CLASSES = ("dim", "bright")
LABELS = ["walk", "sit <b>", "fall"]
N = 24


def write_run(folder: Path, results: dict[str, Any], *, config: str = "", **records: Any) -> Path:
    (folder / "report").mkdir(parents=True)
    ids = "".join(f'<tr id="row-{case["id"]}"></tr>' for case in results["cases"])
    (folder / "report" / "index.html").write_text(f'{ids}<article id="case-c00"></article>')
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.yaml").write_text(f"name: {folder.name}\n{config}")
    provenance = {"commit": "abc", "manifest": {"name": "blobs", "sha256": "1"}}
    (folder / "provenance.json").write_text(json.dumps(provenance | records.pop("provenance", {})))
    for name, values in records.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def segmented(gain: float, *, seed: int = 0, n: int = N, classes=CLASSES) -> dict[str, Any]:
    """Results as `evaluate` writes them, of cases that are equally hard whatever the seed."""
    hard, noise = np.random.default_rng(0), np.random.default_rng(seed + 1)
    cases = []
    for number in range(n):
        dice = hard.beta(9, 2, len(classes)) * 0.9 + gain + 0.01 * noise.normal(size=len(classes))
        volume = 3 + hard.random(len(classes))
        off = noise.normal(size=len(classes))
        scores: dict[str, Any] = {
            "dice": [*dice, dice.mean()],
            "hd95_mm": [*(9 * (1 - dice)), 9 * (1 - dice.mean())],
            "nsd": [*(dice - 0.1), dice.mean() - 0.1],
            "volume_truth_ml": volume,
            "volume_prediction_ml": volume + off,
            "volume_difference_ml": off,
        }
        named = {
            metric: dict(zip((*classes, "mean"), map(float, values), strict=False))
            for metric, values in scores.items()
        }
        name = f"c{number:02d}"
        cases.append(
            {"id": name, "subject": name, "fold": number % 2, "scores": named, "reasons": {}}
        )
    return {
        "task": "segment",
        "confidence": 0.95,
        "nsd_tolerance_mm": 1.0,
        "metrics": {metric: {key: {} for key in cases[0]["scores"][metric]} for metric in named},
        "cases": cases,
    }


def classified(skill: float, *, seed: int = 0, multi: bool = False) -> dict[str, Any]:
    shared, own = np.random.default_rng(0), np.random.default_rng(seed + 1)
    truth = np.arange(2 * N) % 3
    logits = shared.normal(size=(2 * N, 3)) + 0.5 * own.normal(size=(2 * N, 3))
    logits[np.arange(2 * N), truth] += skill
    odds = np.exp(logits)
    chances = odds / odds.sum(axis=1, keepdims=True)
    cases = [
        {
            "id": f"c{k:02d}",
            "subject": f"p{k}",
            "fold": k % 2,
            "truth": [LABELS[truth[k]]],
            "predicted": [LABELS[chances[k].argmax()]],
            "probabilities": dict(zip(LABELS, chances[k].tolist(), strict=True)),
            "scores": {"true_probability": float(chances[k, truth[k]])},
        }
        for k in range(2 * N)
    ]
    limits = {name: {"value": 0.3, "n": N, "reason": None} for name in LABELS}
    return {
        "task": "classify",
        "confidence": 0.95,
        "labels": LABELS,
        "multi_label": multi,
        "metrics": {"top1": {"all": {}}},
        "thresholds": {"0": limits, "1": limits},
        "cases": cases,
    }


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, Path]:
    config = "train: {epochs: 100, seed: [1, 2, 3]}\n"
    return (
        write_run(tmp_path / "base", segmented(0.0), config=config, plan={"values": {"patch": 8}}),
        write_run(
            tmp_path / "tuned",
            segmented(0.05, seed=1),
            config=config.replace("100", "200") + "model: {kind: unet}\n",
            plan={"values": {"patch": 16}},
        ),
    )


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_run(tmp_path / "weak", classified(0.5)),
        write_run(tmp_path / "strong", classified(1.5, seed=1)),
    )


def edit(run: Path, change) -> None:
    results = json.loads((run / "results.json").read_text())
    change(results)
    (run / "results.json").write_text(json.dumps(results))


def go(pair: tuple[Path, Path], out: Path | None = None) -> dict[str, Any]:
    page, _ = compare(*pair, out=out, n_resamples=300)
    found: dict[str, Any] = json.loads((page.parent / "comparison.json").read_text())
    return found


def test_segmentations_are_compared_case_by_case(scans):
    found = go(scans)
    sides = [json.loads((run / "results.json").read_text())["cases"] for run in scans]
    for metric, name in (("dice", "mean"), ("hd95_mm", "dim"), ("nsd", "bright")):
        first, second = ([case["scores"][metric][name] for case in side] for side in sides)
        expected = paired_difference(first, second, n_resamples=300)
        row = found["metrics"][metric][name]
        assert (row["a"], row["b"]) == pytest.approx((np.mean(first), np.mean(second)))
        assert [row[key] for key in ("difference", "ci_low", "ci_high", "p", "n")] == (
            pytest.approx(
                [expected.mean, expected.ci_low, expected.ci_high, expected.p, expected.n]
            )
        )
    error = found["metrics"]["volume_error_ml"]["dim"]
    off = [abs(case["scores"]["volume_difference_ml"]["dim"]) for case in sides[0]]
    assert error["a"] == pytest.approx(np.mean(off))
    assert (found["n_cases"], found["n_subjects"], found["delong"]) == (N, N, None)
    assert (found["warnings"], found["notes"]) == ([], [])


def test_the_sentence_names_the_better_run_and_by_how_much(scans):
    found = go(scans)
    row = found["metrics"]["dice"]["mean"]
    size, low, high = (f"{100 * row[end]:.1f}" for end in ("difference", "ci_low", "ci_high"))
    assert found["sentence"] == (
        f"B (tuned) is better than A (base) in mean Dice by {size} points "
        f"(95 % interval {low} to {high}), n = {N} subjects."
    )
    back = go(scans[::-1])
    assert back["sentence"].startswith("A (tuned) is better than B (base) in mean Dice by")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ((-0.4, -0.9, -0.1, None), "B (b) is better than A (a) in mean HD95 by 0.40 mm (95 % "),
        ((0.4, 0.1, 0.9, None), "A (a) is better than B (b) in mean HD95 by 0.40 mm (95 % "),
        ((-0.4, -0.9, 0.1, None), "better in mean HD95: B (b) less A (a) is \u22120.40 mm (95 % "),
        ((0.4, None, None, "one subject only"), "by +0.40 mm, without an interval: one subject"),
        ((None, None, None, "no case has a value"), "no mean HD95 to compare: no case has"),
    ],
)
def test_less_of_a_distance_is_better_and_what_is_not_known_is_not_said(row, said):
    values = dict(zip(("difference", "ci_low", "ci_high", "reason"), row, strict=True))
    found = {
        "main": {"metric": "hd95_mm", "class": "mean"},
        "metrics": {"hd95_mm": {"mean": {**values, "n": 7}}},
        "classes": ["x", "y"],
        **{side: {"name": side} for side in "ab"},
        **{"n_subjects": 5, "n_cases": 7, "confidence": 0.95},
    }
    assert said in sentence(found)
    if row[1] is not None:
        assert sentence(found).endswith("n = 7 cases of 5 subjects.")


def test_largest_loss_comes_first_in_table_and_page(scans):
    found = go(scans)
    differences = [case["difference"] for case in found["cases"]]
    assert differences == sorted(differences)
    out = scans[0].parent / "base_vs_tuned"
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [case["id"] for case in found["cases"]]
    sides = [json.loads((run / "results.json").read_text())["cases"] for run in scans]
    for row in rows:
        a, b = (side[int(row["id"][1:])]["scores"] for side in sides)
        assert float(row["difference"]) == pytest.approx(b["dice"]["mean"] - a["dice"]["mean"])
        assert float(row["hd95_mm dim B"]) == b["hd95_mm"]["dim"]
    text = (out / "comparison.html").read_text()
    assert re.findall(r'<tr id="row-(c\d+)"', text) == [row["id"] for row in rows]


def test_the_page_is_whole_and_leads_to_both_reports(clips):
    page, found = compare(*clips, n_resamples=200)
    text = page.read_text(encoding="utf-8")
    assert "://" not in text
    assert "<script" not in text
    assert "sit <b>" not in text
    assert unescape(text).count(found["sentence"]) == 1
    ids = set(re.findall(r'\sid="([^"]*)"', text))
    links = {unescape(link) for link in re.findall(r'href="([^"]*)"', text)}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    for name in ("weak", "strong"):
        assert f"../{name}/report/index.html#case-c00" in links
        assert f"../{name}/report/index.html#row-c01" in links
    for link in links:
        if not link.startswith("#"):
            assert (page.parent / unquote(link.split("#")[0])).exists()
    shown = {float(value) for value in re.findall(r'<data value="([^"]*)"', text)}
    for by_class in found["metrics"].values():
        for row in by_class.values():
            ends = {row[key] for key in ("a", "b", "difference", "ci_low", "ci_high")}
            assert ends - {None} <= shown
    assert "none is corrected" in text


def test_classifiers_are_compared_as_the_library_does(clips):
    found = go(clips)
    sides = [json.loads((run / "results.json").read_text())["cases"] for run in clips]
    chances = [np.array([list(case["probabilities"].values()) for case in s]) for s in sides]
    truth = np.arange(2 * N) % 3
    subjects = [case["subject"] for case in sides[0]]
    expected = compare_classification(
        *chances, truth, classes=LABELS, subjects=subjects, resampling=Resampling(300)
    )
    for metric, by_class in expected.items():
        for name, one in by_class.items():
            row, wanted = found["metrics"][metric][name], one.difference
            assert [row["a"], row["b"], row["difference"], row["ci_low"], row["p"]] == (
                pytest.approx([one.first, one.second, wanted.mean, wanted.ci_low, wanted.p])
            )
    called = [c >= 0.3 for c in chances]
    hits = [c[truth == 0, 0].mean() for c in called]
    row = found["metrics"]["sensitivity"]["walk"]
    assert (row["a"], row["b"]) == pytest.approx(hits)
    area = delong_difference(chances[0][:, 2], chances[1][:, 2], truth == 2)
    assert found["delong"]["classes"]["fall"]["p"] == pytest.approx(area.p)
    assert "in accuracy by" in found["sentence"]
    assert found["cases"][0]["truth"]


def test_several_cases_of_a_subject_have_no_delong(clips):
    for run in clips:
        edit(run, lambda r: [c.update(subject=f"p{k // 2}") for k, c in enumerate(r["cases"])])
    found = go(clips)
    assert "DeLong's test takes for independent" in found["delong"]["reason"]
    assert found["n_subjects"] == N
    assert f"n = {2 * N} cases of {N} subjects" in found["sentence"]


def test_only_common_cases_count_and_the_others_are_told(scans):
    edit(scans[0], lambda r: r["cases"].pop(0))
    edit(scans[1], lambda r: (r["cases"].pop(5), r["cases"].pop(5)))
    found = go(scans)
    assert (found["only_a"], found["only_b"]) == (["c05", "c06"], ["c00"])
    assert found["n_cases"] == N - 3
    assert found["metrics"]["dice"]["mean"]["n"] == N - 3


def test_a_score_that_one_run_lacks_is_left_out_and_counted(scans):
    edit(scans[1], lambda r: r["cases"][3]["scores"]["hd95_mm"].update(dim=None, mean=None))
    found = go(scans)
    row = found["metrics"]["hd95_mm"]["dim"]
    assert found["notes"][0].startswith("HD95 is defined for dim in 1 of A only, mean in 1 of A")
    assert (row["n"], row["n_only_a"], row["n_only_b"]) == (N - 1, 1, 0)
    sides = [json.loads((run / "results.json").read_text())["cases"] for run in scans]
    kept = [case["scores"]["hd95_mm"]["dim"] for k, case in enumerate(sides[0]) if k != 3]
    assert row["a"] == pytest.approx(np.mean(kept))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["cases"][1].update(fold=0), "1 case (c01) was held out in other folds"),
        (lambda r: r["cases"][1].update(subject="x"), "1 case (c01) was of another subject"),
        (lambda r: r["cases"][1].update(subject="c00"), "1 of 23 subjects have cases in several"),
        (
            lambda r: r["cases"][1]["scores"]["volume_truth_ml"].update(dim=9.0),
            "1 case (c01) was scored against another truth in B than in A: left out",
        ),
        (lambda r: r.update(nsd_tolerance_mm=2.0), "NSD is left out: its tolerance is 1.0 mm"),
    ],
)
def test_what_to_know_before_believing_it(scans, change, said):
    edit(scans[1], change)
    found = go(scans)
    assert any(said in text for text in found["warnings"]), found["warnings"]
    assert ("nsd" in found["metrics"]) == ("NSD" not in said)
    assert found["n_cases"] == N - ("left out" in said and "NSD" not in said)
    page = (scans[0].parent / "base_vs_tuned" / "comparison.html").read_text()
    assert said in unescape(page)


def test_other_data_and_few_subjects_are_told(tmp_path):
    about = {"manifest": {"name": "other", "sha256": "2"}}
    pair = (
        write_run(tmp_path / "a", segmented(0.0, n=8)),
        write_run(tmp_path / "b", segmented(0.0, n=8), provenance=about),
    )
    found = go(pair)
    assert "The runs name other data sets, blobs and other" in found["warnings"][0]
    assert "8 cases of 8 subjects: below 20" in found["notes"][0]
    assert found["sentence"].startswith("Neither run is shown to be better in mean Dice")


def test_what_was_set_otherwise_is_listed_field_by_field(scans):
    found = go(scans)
    told = {one["field"]: (one["group"], one["a"], one["b"]) for one in found["settings"]}
    assert told == {
        "train.epochs": ("configuration", "100", "200"),
        "model.kind": ("configuration", "not there", "unet"),
        "patch": ("plan", "8", "16"),
    }


def test_runs_of_one_name_are_told_apart_by_their_folders(scans):
    for run in scans:
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(re.sub("name: .*", "name: same", text))
    found = go(scans)
    assert (found["a"]["name"], found["b"]["name"]) == ("base", "tuned")


def test_the_terminal_gets_sentence_table_and_warnings(scans, tmp_path):
    edit(scans[1], lambda r: r["cases"][1].update(fold=0))
    found = go(scans, tmp_path / "else where")
    lines = to_text(found).splitlines()
    assert lines[0] == found["sentence"]
    table = [line for line in lines if line.startswith("Dice ")]
    assert [line.split()[1] for line in table] == ["dim", "bright", "mean"]
    assert all(line.endswith("  B") for line in table)
    assert any(line.startswith("note: 1 case (c01) was") for line in lines)
    assert (tmp_path / "else where" / "comparison.html").exists()


def test_what_cannot_be_compared_is_refused_by_name(scans, clips, tmp_path):
    base, tuned = scans
    fewer = write_run(tmp_path / "fewer", segmented(0.0, classes=("dim",)))
    others = segmented(0.0)
    for case in others["cases"]:
        case["id"] = f"x{case['id']}"
    apart = write_run(tmp_path / "apart", others)
    moved = segmented(0.0)
    for case in moved["cases"]:
        case["scores"]["volume_truth_ml"]["dim"] += 1
    elsewhere = write_run(tmp_path / "elsewhere", moved)
    many = write_run(tmp_path / "many", classified(1.0, multi=True))
    empty = tmp_path / "empty"
    empty.mkdir()
    unscored = write_run(tmp_path / "unscored", {"task": "segment", "metrics": {}, "cases": []})
    for pair, code, said in (
        ((base, base), "same-run", "given twice"),
        ((base, clips[0]), "other-task", "is of task classify"),
        ((base, fewer), "other-classes", "has the classes dim; "),
        ((clips[0], many), "other-classes", "several a case"),
        ((base, apart), "no-common-case", "no case in common"),
        ((base, elsewhere), "no-common-case", f"{N} of other truth"),
        ((base, tmp_path / "nowhere"), "no-run", "holds no run"),
        ((empty, tuned), "no-results", "holds no results.json"),
        ((base, unscored), "no-results", "holds no scored case"),
    ):
        with pytest.raises(VolumetricError) as caught:
            pair_runs(*pair)
        assert caught.value.code == code
        assert said in caught.value.reason


def test_a_real_run_is_compared_with_a_copy_that_finds_nothing(blob_config, tmp_path):
    """What `evaluate` writes today is what is compared, and the reports' anchors are found."""
    run = create_run(blob_config, tmp_path / "one")
    stages = find_stages(run)
    stages.prepare(run)
    stages.train(run, 0)
    stages.predict(run, 0)
    stages.postprocess(run)
    stages.evaluate(run)
    stages.report(run)
    shutil.copytree(run.folder, tmp_path / "two")
    worse = open_run(tmp_path / "two")
    for path in worse.predictions.glob("*.nii.gz"):
        mask = nib.load(path)
        nothing = np.zeros(mask.shape, np.uint8)
        nib.save(nib.Nifti1Image(nothing, mask.affine, mask.header), path)
    find_stages(worse).evaluate(worse)
    page, found = compare(run.folder, worse.folder, n_resamples=200)
    assert found["n_cases"] == 4
    assert found["metrics"]["dice"]["mean"]["b"] == 0
    assert found["metrics"]["dice"]["mean"]["difference"] < 0
    hd95 = found["metrics"]["hd95_mm"]["mean"]
    assert (hd95["n"], hd95["difference"]) == (0, None)
    assert hd95["n_only_a"] == 4
    case = found["cases"][0]["id"]
    assert f"../one/report/index.html#case-{case}" in page.read_text()

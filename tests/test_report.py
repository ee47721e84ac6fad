from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline.report import write_report
from pipeline.report.charts import limits_of_agreement
from pipeline.report.drawing import outline_path
from volumetric import figures
from volumetric.cases import Case
from volumetric.errors import UnreadableFileError
from volumetric.io import read_volume
from volumetric.preprocess import orient

CLASSES = {1: "anterior", 2: "posterior"}
LAS_4MM = np.array([[-1.0, 0, 0, 20], [0, 1.5, 0, -10], [0, 0, 4, 5], [0, 0, 0, 1]])
DICE = {"good": (0.91234567, 0.87654321), "bad": (0.1234321, 0.4567654), "lost": (0.5, None)}
REASON = "prediction <b>empty</b>"


class _Page(HTMLParser):
    """What the tests ask of a page: numbers and text by the id they stand under, and links."""

    def __init__(self, text: str):
        super().__init__()
        self.under = ""
        self.ids: list[str] = []
        self.numbers: dict[str, list[float]] = {}
        self.text: dict[str, str] = {}
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.links += [found[name] for name in ("href", "src") if name in found]
        if tag in ("section", "article", "header", "tr") and "id" in found:
            self.under = found["id"]
            self.ids.append(self.under)
        if tag == "data":
            self.numbers.setdefault(self.under, []).append(float(found["value"]))

    def handle_data(self, data):
        self.text[self.under] = self.text.get(self.under, "") + data


def _read(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray = LAS_4MM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def _case(root: Path, run: Path, name: str, *, shift: int) -> Case:
    rng = np.random.default_rng(len(name))
    truth = np.zeros((24, 22, 12), np.uint8)
    truth[6:12, 8:14, 4:8], truth[12:18, 8:14, 4:8] = 1, 2
    image = (rng.normal(100, 10, truth.shape) + 60 * truth).astype(np.float32)
    _save(run / "predictions" / f"{name}.nii.gz", np.roll(truth, shift, axis=1))
    return Case(
        id=name,
        subject=name,
        fold=0,
        image=_save(root / "images" / f"{name}.nii.gz", image),
        mask=_save(root / "masks" / f"{name}.nii.gz", truth),
    )


def _results() -> dict:
    cases = []
    for name, (front, back) in DICE.items():
        mean = None if back is None else (front + back) / 2
        cases.append(
            {
                "id": name,
                "subject": name,
                "fold": 0,
                "scores": {
                    "dice": {"anterior": front, "posterior": back, "mean": mean},
                    "surprise_mm": {"anterior": front * 3},
                    "volume_truth_ml": {"anterior": 1.5 + front},
                    "volume_prediction_ml": {"anterior": 1.25 + front * front},
                },
                "reasons": {} if back else {"dice": {"posterior": REASON}},
            }
        )
    dice = {"mean": 0.612345, "ci_low": 0.5111111, "ci_high": 0.7222222, "n": 3}
    alone = {"mean": 0.5432, "ci_low": None, "ci_high": None, "n": 1, "reason": "too few cases"}
    metrics = {"dice": {"anterior": dice, "posterior": alone, "mean": dice | {"mean": 0.59}}}
    metrics["surprise_mm"] = {"anterior": dice | {"mean": 7.125}}
    metrics["volume_truth_ml"] = metrics["volume_prediction_ml"] = {"anterior": dice}
    return {"task": "segment", "n_cases": 3, "metrics": metrics, "cases": cases, "provenance": {}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "folds" / "0").mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(_results()))
    (folder / "config.yaml").write_text("name: a<b\nseed: 1\n")
    (folder / "provenance.json").write_text(
        json.dumps({"command": "volumetric run x.yaml", "seconds": {"train": 61}, "seed": 4242})
    )
    (folder / "fingerprint.json").write_text(
        json.dumps({"modality": "MR", "class_volume_ml": {"anterior": {"median": 1.875}}})
    )
    (folder / "plan.json").write_text(
        json.dumps({"values": {"patch_size": [40, 56, 40]}, "why": {"patch_size": "it fits"}})
    )
    with (folder / "folds" / "0" / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "train_loss", "val_loss", "val_score"])
        writer.writerows([[0, 0.9, "", ""], [1, 0.5, 0.6, 0.71], [2, 0.4, 0.5, 0.69]])
    return folder


@pytest.fixture
def cases(tmp_path: Path, run: Path) -> list[Case]:
    return [_case(tmp_path, run, name, shift=n) for n, name in enumerate(DICE)]


def test_every_number_of_the_results_is_shown_unchanged(run, cases):
    page = _read(write_report(run, cases, classes=CLASSES))
    results = _results()
    table = [
        value
        for name in ("anterior", "posterior", "mean")
        for metric in results["metrics"].values()
        for value in (metric.get(name, {}).get(key) for key in ("mean", "ci_low", "ci_high"))
        if value is not None
    ]
    assert page.numbers["scores"] == table
    for case in results["cases"]:
        scores = [v for table in case["scores"].values() for v in table.values() if v is not None]
        mean = case["scores"]["dice"]["mean"]
        assert page.numbers[f"case-{case['id']}"] == ([] if mean is None else [mean]) + scores
    assert page.numbers["top"][:3] == [0.59, 0.5111111, 0.7222222]
    assert "too few cases" in page.text["scores"]


def test_worst_case_comes_first_and_unscored_last_with_its_reason(run, cases):
    page = _read(write_report(run, cases, classes=CLASSES))
    assert [name for name in page.ids if name.startswith("case-")] == [
        "case-bad",
        "case-good",
        "case-lost",
    ]
    assert REASON in page.text["case-lost"]


def test_page_loads_nothing_runs_nothing_and_every_link_leads_somewhere(run, cases):
    path = write_report(run, cases, classes=CLASSES, n_pictures=1)
    text, page = path.read_text(encoding="utf-8"), _read(path)
    assert "://" not in text
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|<link|\son\w+=", text)
    assert "default-src 'none'" in text
    targets = {"#" + name for name in re.findall(r'\sid="([^"]+)"', text)}
    for link in page.links:
        assert link.startswith("data:image/webp;base64,") or link in targets
    assert len(text) < 5e6 + 1.5e6


def test_text_from_files_is_escaped(run, cases):
    text = write_report(run, cases, classes={1: "anterior", 2: "<i>x"}).read_text(encoding="utf-8")
    assert "<h1>a&lt;b</h1>" in text
    assert "prediction &lt;b&gt;empty" in text
    assert REASON not in text
    assert "<i>x" not in text


def test_only_the_worst_are_pictured_but_all_are_listed(run, cases):
    page = _read(write_report(run, cases, classes=CLASSES, n_pictures=1))
    assert [name for name in page.ids if name.startswith("case-")] == ["case-bad"]
    assert [n for n in page.ids if n.startswith("row-")] == ["row-bad", "row-good", "row-lost"]


def test_quarantine_is_shown_before_the_scores_without_paths(run, cases):
    item = {"id": "q7", "path": "in/Doe_Jane.nii", "code": "c-1", "reason": "tilt", "remedy": "fix"}
    (run / "quarantine.json").write_text(json.dumps([item]))
    path = write_report(run, cases, classes=CLASSES)
    page = _read(path)
    assert page.ids.index("quarantine") < page.ids.index("scores")
    for text in ("q7", "c-1", "tilt", "fix"):
        assert text in page.text["quarantine"]
    assert "Doe" not in path.read_text(encoding="utf-8")


def test_records_beside_the_results_are_shown(run, cases):
    page = _read(write_report(run, cases, classes=CLASSES))
    assert "volumetric run x.yaml" in page.text["provenance"]
    assert "4242" in page.text["provenance"]
    assert "1.875" in page.text["data"]
    assert "40 × 56 × 40" in page.text["data"]  # noqa: RUF001 - what the page prints
    assert "best 0.710 at epoch 1" in page.text["training"]


def test_predictions_without_truth_are_shown_by_id(tmp_path):
    run = tmp_path / "plain"
    made = [_case(tmp_path, run, name, shift=0) for name in ("z", "a")]
    bare = [Case(case.id, case.subject, None, case.image) for case in made]
    path = write_report(run, bare, classes=CLASSES)
    page = _read(path)
    assert [name for name in page.ids if name.startswith("case-")] == ["case-a", "case-z"]
    assert "scores" not in page.ids
    text = path.read_text(encoding="utf-8")
    assert 'class="guess"' in text
    assert 'class="truth"' not in text
    assert 'class="wrong"' not in text


def test_case_that_cannot_be_drawn_says_why_and_the_others_are_drawn(run, cases):
    (run / "predictions" / "good.nii.gz").unlink()
    _save(run / "predictions" / "lost.nii.gz", np.zeros((9, 9, 9), np.uint8))
    page = _read(write_report(run, cases, classes=CLASSES))
    assert "there is no prediction" in page.text["case-good"]
    assert "do not lie on" in page.text["case-lost"]
    assert "slice" in page.text["case-bad"]


def test_case_of_the_manifest_outside_this_run_is_counted_not_listed(run, cases):
    other = Case("other", "other", 1, cases[0].image, cases[0].mask)
    page = _read(write_report(run, [*cases, other], classes=CLASSES))
    assert "1 more of the manifest" in page.text["top"]
    assert "row-other" not in page.ids


def test_damaged_results_are_refused(run, cases):
    (run / "results.json").write_text('{"metrics": {')
    with pytest.raises(UnreadableFileError) as caught:
        write_report(run, cases, classes=CLASSES)
    assert caught.value.code == "unreadable-run-file"


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIR", "SLA", "ASL"])
@pytest.mark.parametrize("towards", ["R", "L", "A", "P", "S", "I"])
def test_letters_say_where_things_lie(tmp_path, axes, towards):
    # A block near one side of the body, at a known world position, in a scan stored any way round.
    world, sign = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}[
        towards
    ]
    codes = nib.orientations.axcodes2ornt(axes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel, (axis, way) in enumerate(codes):
        affine[int(axis), voxel] = way * (0.7, 1.3, 4.0)[voxel]
    shape = np.array((20, 16, 12))
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    place = grid @ affine[:3, :3].T + affine[:3, 3]
    reach = np.abs(place[..., world]).max()
    bright = (sign * place[..., world] > reach / 2).astype(np.int16)
    volume = orient(read_volume(_save(tmp_path / "block.nii.gz", bright, affine)))
    voxels = volume.data[0].numpy()
    for plane in figures.PLANES:
        if towards not in figures.EDGES[plane]:
            continue
        middle = voxels.shape[figures.PLANES.index(plane)] // 2
        shown = figures.cut_plane(voxels, plane, middle)
        top, right, bottom, left = figures.EDGES[plane]
        rim = {top: shown[0], right: shown[:, -1], bottom: shown[-1], left: shown[:, 0]}
        assert rim[towards].all()
        opposite = {top: bottom, bottom: top, left: right, right: left}[towards]
        assert not rim[opposite].any()


def test_letters_are_radiological():
    assert figures.EDGES["axial"] == ("A", "L", "P", "R")
    assert figures.EDGES["coronal"] == ("S", "L", "I", "R")
    assert figures.EDGES["sagittal"] == ("S", "P", "I", "A")


def test_slice_with_most_differing_voxels_is_found():
    truth = np.zeros((6, 8, 10), np.uint8)
    truth[1:3, 2:7, 2:9] = 1
    guess = truth.copy()
    guess[4, 1, 1:4] = 2
    guess[2, 6, 3] = 0
    assert figures.find_slice(truth, guess, "axial") == (4, 3)
    assert figures.find_slice(truth, guess, "coronal") == (1, 3)
    assert figures.find_slice(truth, guess, "sagittal") == (3, 2)
    assert figures.find_slice(truth, truth, "axial") == (1, 0)
    assert figures.find_slice(None, np.zeros_like(truth), "axial") == (3, None)


def test_picture_keeps_millimetres():
    file = figures.encode_grey(
        np.arange(200.0).reshape(10, 20), (0, 199), size_mm=(30.0, 20.0), longest_mm=30.0
    )
    picture = Image.open(io.BytesIO(file))
    assert picture.size == (256, 384)
    assert figures.plane_spacing((4.0, 1.5, 0.5), "axial") == (1.5, 0.5)
    assert figures.plane_spacing((4.0, 1.5, 0.5), "sagittal") == (4.0, 1.5)


@given(arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_outline_encloses_exactly_the_mask(mask):
    area = 0
    for loop in figures.trace_outline(mask):
        for (y0, x0), (y1, x1) in zip(loop, loop[1:] + loop[:1], strict=True):
            assert abs(y1 - y0) + abs(x1 - x0) == 1
            area += x0 * y1 - x1 * y0
    assert area == 2 * mask.sum()


def test_pixels_that_touch_in_a_corner_are_parted():
    assert len(figures.trace_outline(np.eye(3, dtype=bool))) == 3


def test_outline_path_of_one_pixel_is_a_rounded_square():
    assert outline_path(np.array([[True]])).count("Q") == 4
    assert outline_path(np.array([[False]])) == ""


def test_limits_of_agreement():
    differences = [0.1, -0.3, 0.25, 0.5]
    bias, low, high = limits_of_agreement(differences)
    assert bias == pytest.approx(0.1375)
    spread = 1.96 * (sum((d - 0.1375) ** 2 for d in differences) / 3) ** 0.5
    assert (low, high) == pytest.approx((0.1375 - spread, 0.1375 + spread))
    assert limits_of_agreement([0.2]) == (0.2, None, None)

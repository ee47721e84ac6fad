from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.report.classification import (
    surest_mistakes_first,
    write_classification_report,
)
from pipeline.report.confusion import commonest_share, worst_pairs
from pipeline.report.filmstrip import draw_film, draw_lanes
from pipeline.report.protocol import protocol_text
from pipeline.report.scores import stated_interval
from volumetric.cases import Case
from volumetric.errors import OutputError, UnreadableFileError
from volumetric.io.prepared import write_prepared
from volumetric.metrics import (
    Resampling,
    average_views,
    bin_reliability,
    count_confusion,
    score_calibration,
    score_classification,
)
from volumetric.volume import Volume

LABELS = ["stand", "sit <b>", "gehen, läuft"]
N_VIEWS = 3
FEW = Resampling(200)


class _Page(HTMLParser):
    """What the tests ask of a page: numbers, text and pictures by the id they stand under."""

    def __init__(self, text: str):
        super().__init__()
        self.under = ""
        self.ids: list[str] = []
        self.numbers: dict[str, list[float]] = {}
        self.text: dict[str, str] = {}
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.pictures: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.attributes |= set(found)
        if tag in ("section", "article", "header", "tr", "div") and "id" in found:
            self.under = found["id"]
            self.ids.append(self.under)
        if tag == "data":
            self.numbers.setdefault(self.under, []).append(float(found["value"]))
        if tag == "img":
            self.pictures[self.under] = self.pictures.get(self.under, 0) + 1
        self.links += [(self.under, found[name]) for name in ("href", "src") if name in found]

    def handle_data(self, data):
        self.text[self.under] = self.text.get(self.under, "") + data

    def titled(self, start: str) -> list[str]:
        return [name for name in self.ids if name.startswith(start)]


def _read(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


def _prepare(run: Path, name: str, *, n_frames: int = 24) -> None:
    generator = torch.Generator().manual_seed(n_frames)
    data = torch.randint(0, 256, (3, n_frames, 16, 20), dtype=torch.uint8, generator=generator)
    clip = Volume(data, np.diag([0.1, 1, 1, 1]), "clip")
    write_prepared(run / "prepared" / f"{name}.safetensors", clip, None, foreground={}, facts={})


def _plain(metrics) -> dict:
    return {
        metric: {name: asdict(interval) for name, interval in by_class.items()}
        for metric, by_class in metrics.items()
    }


def _draw_views(n: int, labels: list[str], truth: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (n, N_VIEWS, len(labels)))
    logits[np.arange(n), :, truth] += 1
    odds = np.exp(logits)
    return odds / odds.sum(-1, keepdims=True)


def _results(ids: list[str], labels: list[str]) -> dict:
    """What evaluation says of these ids, with the real metrics; truth goes round the labels."""
    n = len(ids)
    truth = np.arange(n) % len(labels)
    views = _draw_views(n, labels, truth)
    every = [name for name in ids for _ in range(N_VIEWS)]
    means = np.stack(list(average_views(views.reshape(n * N_VIEWS, -1), every).values()))
    how = {"subjects": [f"s{k // 2}" for k in range(n)], "resampling": FEW}
    metrics = score_classification(means, truth, classes=labels, **how)
    metrics |= score_calibration(means, truth, **how)
    of_views = score_classification(
        views.reshape(n * N_VIEWS, -1), truth.repeat(N_VIEWS), classes=labels, resampling=FEW
    )
    confusion = count_confusion(means, truth, classes=labels, ids=ids)
    return {
        "task": "classify",
        "n_cases": n,
        "confidence": 0.95,
        "labels": labels,
        "multi_label": False,
        "protocol": {
            **{"views": N_VIEWS, "crops": 1, "frames": 8, "stride": 2, "sampling": "dense"},
            **{"size": 16, "fit": "crop", "rate": 10.0, "input": "rgb"},
        },
        "metrics": _plain(metrics),
        "view_metrics": _plain(of_views),
        "confusion": {
            "counts": confusion.counts.tolist(),
            "ids": {"|".join(pair): list(names) for pair, names in confusion.ids.items()},
        },
        "reliability": {"all": [asdict(one) for one in bin_reliability(means, truth, n_bins=4)]},
        "notes": ["a note & more"],
        "cases": [
            {
                "id": name,
                "subject": f"s{k // 2}",
                "fold": k % 2,
                "truth": [labels[truth[k]]],
                "predicted": [labels[means[k].argmax()]],
                "probabilities": dict(zip(labels, means[k].tolist(), strict=True)),
                "views": views[k].tolist(),
                "seconds": [[0.0, 0.8], [0.7, 1.5], [1.5, 2.3]],
                "scores": {"true_probability": float(means[k, truth[k]])},
            }
            for k, name in enumerate(ids)
        ],
        "provenance": {},
    }


def _cases(ids: list[str]) -> list[Case]:
    return [Case(name, name, 0, Path("clips") / "a.mp4") for name in ids]


IDS = [f"clip_{k:02d}" for k in range(12)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "folds" / "0").mkdir(parents=True)
    _write(folder, _results(IDS, LABELS))
    (folder / "config.yaml").write_text("name: a<b\nseed: 1\n")
    (folder / "provenance.json").write_text(
        json.dumps({"command": ["volumetric", "run", "x y.yaml"], "seconds": {"train": 61}})
    )
    (folder / "fingerprint.json").write_text(
        json.dumps({"n_cases": 12, "labels": {LABELS[1]: 4321}, "rate": {"median": 12.625}})
    )
    (folder / "plan.json").write_text(json.dumps({"values": {"rate": 10}, "why": {"rate": "set"}}))
    item = {"id": "q7", "path": "in/Doe.mp4", "code": "c-1", "reason": "cut", "remedy": "fix"}
    (folder / "quarantine.json").write_text(json.dumps([item]))
    with (folder / "folds" / "0" / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "seconds", "learning_rate", "train_loss", "val_score"])
        writer.writerows([[0, 9, 1.5, 0.001, 1.9, 0.4], [1, 18, 3.0, 0.001, 1.2, 0.625]])
    for name in IDS:
        _prepare(folder, name)
    return folder


def _write(run: Path, results: dict) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")


def _ends(summary: dict) -> list[float]:
    """The numbers a page shows of a summary: the interval only where both its ends are known."""
    mean, low, high = summary["mean"], summary["ci_low"], summary["ci_high"]
    shown = [] if mean is None else [mean]
    return shown if low is None or high is None else [*shown, low, high]


def test_every_number_of_the_results_is_shown_unchanged(run):
    results = _results(IDS, LABELS)
    page = _read(write_classification_report(run, _cases(IDS)))
    metrics, of_views = results["metrics"], results["view_metrics"]
    wanted = []
    for metric, table in metrics.items():
        if "all" in table:
            wanted += _ends(table["all"])
            if metric in of_views:
                wanted += _ends(of_views[metric]["all"])
    by_class = [table for table in metrics.values() if LABELS[0] in table]
    wanted += [value for label in LABELS for table in by_class for value in _ends(table[label])]
    assert page.numbers["scores"] == wanted
    headline = [metrics[m]["all"] for m in ("top1", "balanced_accuracy", "f1", "auroc")]
    assert page.numbers["top"] == [value for one in headline for value in _ends(one)]
    for case in results["cases"]:
        chances = sorted(case["probabilities"].values(), reverse=True)
        true = case["scores"]["true_probability"]
        assert page.numbers[f"case-{case['id']}"] == [true, *chances]
        assert page.numbers[f"row-{case['id']}"] == [true, chances[0]]


def test_surest_mistake_comes_first_and_unlabelled_last_least_sure_first(run):
    results = _results(IDS, LABELS)
    for k, top in ((4, 0.9), (7, 0.4)):
        results["cases"][k] |= {"truth": [], "scores": {"true_probability": None}}
        results["cases"][k]["probabilities"] = {LABELS[0]: top, LABELS[1]: 0.1}
    _write(run, results)
    page = _read(write_classification_report(run, _cases(IDS)))
    scored = [case for k, case in enumerate(results["cases"]) if k not in (4, 7)]
    scored.sort(key=lambda case: case["scores"]["true_probability"])
    wanted = [case["id"] for case in scored] + ["clip_07", "clip_04"]
    assert page.titled("case-") == [f"case-{name}" for name in wanted]
    assert page.titled("row-") == [f"row-{name}" for name in wanted]
    assert [case["id"] for case in surest_mistakes_first(results["cases"])] == wanted
    assert "2 without truth" in page.text["top"]


def _assert_whole(path: Path) -> None:
    """Nothing from anywhere, nothing that runs, every link leads somewhere, ids are unique."""
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert "://" not in text
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|<link", text)
    assert not any(name.startswith("on") for name in page.attributes)
    assert "default-src 'none'" in text
    ids = [html.unescape(name) for name in re.findall(r'\sid="([^"]*)"', text)]
    assert len(ids) == len(set(ids))
    for _, link in page.links:
        assert link.startswith("data:image/jpeg;base64,") or unquote(link[1:]) in ids


def test_page_loads_nothing_runs_nothing_and_every_link_leads_somewhere(run):
    path = write_classification_report(run, _cases(IDS), n_pictures=5)
    _assert_whole(path)
    assert path == run / "report" / "index.html"
    assert path.stat().st_size < 5e6 + 5 * 1.5e6
    page = _read(path)
    assert len(page.titled("case-")) == 5
    assert len(page.titled("row-")) == 12
    assert all(page.pictures[name] == 8 for name in page.titled("case-"))


def test_each_cell_of_the_confusion_leads_to_exactly_its_cases(run):
    results = _results(IDS, LABELS)
    page = _read(write_classification_report(run, _cases(IDS), n_pictures=3))
    counts = results["confusion"]["counts"]
    cells = {f"cell-{r}-{c}" for r in range(3) for c in range(3) if counts[r][c]}
    assert set(page.titled("cell-")) == cells
    pictured = {name.removeprefix("case-") for name in page.titled("case-")}
    for name in cells:
        row, column = map(int, name.split("-")[1:])
        assert ("confusion", "#" + name) in page.links
        own = results["confusion"]["ids"][f"{LABELS[row]}|{LABELS[column]}"]
        assert len(own) == counts[row][column]
        wanted = [("#case-" if case in pictured else "#row-") + case for case in own]
        assert [link for under, link in page.links if under == name] == wanted
    table = page.text["confusion"]
    assert [sum(row) for row in counts] == [4, 4, 4]
    assert all(str(count) in table for row in counts for count in row if count)


def test_shade_is_the_part_of_the_row(run):
    text = write_classification_report(run, _cases(IDS)).read_text(encoding="utf-8")
    counts = _results(IDS, LABELS)["confusion"]["counts"]
    shades = [f"{count / sum(row):.3f}" for row in counts for count in row if count]
    assert re.findall(r'--part:([\d.]+)"', text) == shades


def test_every_scored_case_is_a_point_that_leads_to_it_and_wrong_ones_are_marked(run):
    text = write_classification_report(run, _cases(IDS), n_pictures=2).read_text(encoding="utf-8")
    chart = text[text.index('aria-label="Probability of the true class"') :]
    chart = chart[: chart.index("</svg>")]
    assert len(re.findall(r'<a href="#(?:case|row)-', chart)) == len(IDS)
    marked = "".join(re.findall(r'<g class="dot marked">(.*?)</g>', chart, flags=re.S))
    cases = _results(IDS, LABELS)["cases"]
    wrong = {case["id"] for case in cases if case["truth"] != case["predicted"]}
    assert wrong
    assert set(re.findall(r'href="#(?:case|row)-([^"]+)"', marked)) == wrong
    assert f"{len(wrong)} wrong" in _Page(text).text["top"]


def test_text_from_files_is_escaped_wherever_it_stands(run):
    ids = ['<i onclick="x">', "a b'c", "../../up", "<script>alert(1)</script>", "Ünïcode_走る", "z"]
    results = _results(ids, LABELS)
    results["notes"] = ["<u>note"]
    results["cases"][0]["subject"] = "<s>who"
    _write(run, results)
    path = write_classification_report(run, _cases(ids))
    _assert_whole(path)
    text = path.read_text(encoding="utf-8")
    assert "<h1>a&lt;b</h1>" in text
    for raw in ("sit <b>", "<i on", "<script", "<u>", "<s>"):
        assert raw not in text
    page = _Page(text)
    assert {name.removeprefix("case-") for name in page.titled("case-")} == set(ids)
    assert "the id names no file" in page.text["case-../../up"]
    assert "Ünïcode_走る" in page.text["case-Ünïcode_走る"]


def test_clip_that_cannot_be_drawn_says_why_without_its_path(run):
    (run / "prepared" / "clip_03.safetensors").unlink()
    (run / "prepared" / "clip_05.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    path = write_classification_report(run, _cases(IDS))
    page = _read(path)
    assert "nothing was prepared" in page.text["case-clip_03"]
    assert "is no prepared case" in page.text["case-clip_05"]
    assert page.pictures["case-clip_04"] == 8
    assert str(run) not in path.read_text(encoding="utf-8")


def test_records_beside_the_results_are_shown(run):
    page = _read(write_classification_report(run, [*_cases(IDS), *_cases(["other"])]))
    assert "volumetric run 'x y.yaml'" in page.text["provenance"]
    assert "4321" in page.text["data"]
    assert LABELS[1] in page.text["data"]
    assert "12.625" in page.text["data"]
    assert "best 0.625 at epoch 1" in page.text["training"]
    assert "held-out score" in page.text["training"]
    assert "a note & more" in page.text["top"]
    assert "1 quarantined" in page.text["top"]
    assert ("top", "#quarantine") in page.links
    assert "1 more of the manifest" in page.text["top"]
    assert all(word in page.text["quarantine"] for word in ("q7", "c-1", "cut", "fix"))
    assert "Doe" not in "".join(page.text.values())


def test_predictions_without_truth_are_shown_without_scores(run):
    results = _results(IDS, LABELS)
    results |= {"metrics": {}, "view_metrics": {}, "n_cases": 0}
    del results["confusion"], results["reliability"]
    for case in results["cases"]:
        case |= {"truth": [], "scores": {"true_probability": None}}
    _write(run, results)
    path = write_classification_report(run, _cases(IDS))
    _assert_whole(path)
    page = _read(path)
    assert "Predictions only" in page.text["top"]
    assert not {"scores", "confusion", "probabilities"} & set(page.ids)
    assert "wrong" not in page.text["top"] + page.text["all"]
    tops = [max(case["probabilities"].values()) for case in results["cases"]]
    assert [page.numbers[name][0] for name in page.titled("row-")] == sorted(tops)
    assert page.pictures["case-clip_00"] == 8


def test_several_labels_a_case(run):
    rng = np.random.default_rng(5)
    truth, chances = np.eye(3, dtype=int)[np.arange(12) % 3], rng.uniform(size=(12, 3))
    truth[0] = 0
    results = _results(IDS, LABELS) | {"multi_label": True, "confusion": None, "reliability": {}}
    metrics = score_classification(chances, truth, classes=LABELS, resampling=FEW)
    results |= {"metrics": _plain(metrics), "view_metrics": {}}
    for case, row, own in zip(results["cases"], chances, truth, strict=True):
        case["truth"] = [name for name, one in zip(LABELS, own, strict=True) if one]
        case["predicted"] = [name for name, p in zip(LABELS, row, strict=True) if p > 0.5]
        case["probabilities"] = dict(zip(LABELS, row.tolist(), strict=True))
        case["scores"] = {"true_probability": float(np.where(own, row, 1 - row).mean())}
    _write(run, results)
    path = write_classification_report(run, _cases(IDS))
    _assert_whole(path)
    page = _read(path)
    wanted = [_ends(results["metrics"][m]["all"]) for m in ("average_precision", "auroc")]
    assert page.numbers["top"] == [value for ends in wanted for value in ends]
    assert "confusion" not in page.ids
    n_wrong = sum(set(case["truth"]) != set(case["predicted"]) for case in results["cases"])
    assert f"{n_wrong} wrong" in page.text["top"]
    assert "mean probability of the truth" in page.text["case-clip_00"]


@pytest.mark.parametrize("results", [{}, {"task": "classify", "n_cases": 0, "cases": []}])
def test_run_without_a_scored_case(tmp_path, results):
    _write(tmp_path, results)
    path = write_classification_report(tmp_path, _cases(["a"]))
    _assert_whole(path)
    assert "No case was predicted" in _read(path).text["top"]


def test_one_class_and_one_frame(tmp_path):
    _write(tmp_path, _results(["a", "b"], ["only"]))
    for name in ("a", "b"):
        _prepare(tmp_path, name, n_frames=1)
    path = write_classification_report(tmp_path, _cases(["a", "b"]))
    _assert_whole(path)
    page = _read(path)
    assert page.titled("cell-") == ["cell-0-0"]
    assert page.pictures["case-a"] == 1


def test_damaged_results_are_refused(run):
    (run / "results.json").write_text('{"metrics": {')
    with pytest.raises(UnreadableFileError) as caught:
        write_classification_report(run, _cases(IDS))
    assert caught.value.code == "unreadable-run-file"


@pytest.mark.parametrize(
    ("n_frames", "shown"),
    [(1, [0]), (3, [0, 1, 2]), (8, list(range(8))), (24, [1, 4, 7, 10, 13, 16, 19, 22])],
)
def test_frames_are_the_middles_of_equal_parts(tmp_path, n_frames, shown):
    # The frame's number is its brightness, which survives the JPEG.
    data = (8 * torch.arange(n_frames, dtype=torch.uint8))[None, :, None, None]
    clip = Volume(data.expand(3, -1, 12, 30).contiguous(), np.diag([0.5, 1, 1, 1]), "clip")
    write_prepared(tmp_path / "a.safetensors", clip, None, foreground={}, facts={})
    film = draw_film(tmp_path / "a.safetensors")
    files = [base64.b64decode(address.partition(",")[2]) for address, _ in film.frames]
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    assert [round(np.asarray(one).mean() / 8) for one in pictures] == shown
    assert [caption for _, caption in film.frames] == [f"{0.5 * k:.2f} s" for k in shown]
    assert {one.size for one in pictures} == {(30, 12)}
    assert film.duration_s == 0.5 * n_frames


def test_scan_is_shown_as_slices_in_millimetres(tmp_path):
    # Bright at the anterior right: top left where the patient's right is on the left.
    data = torch.zeros(1, 4, 10, 10)
    data[:, :, 5:, 5:] = 900
    scan = Volume(data, np.array([[0, 0, 1, 0], [0, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1.0]]))
    write_prepared(tmp_path / "a.safetensors", scan, None, foreground={}, facts={})
    film = draw_film(tmp_path / "a.safetensors")
    assert [caption for _, caption in film.frames] == [f"slice {k}" for k in (1, 2, 3, 4)]
    assert film.duration_s is None
    file = base64.b64decode(film.frames[0][0].partition(",")[2])
    picture = np.asarray(Image.open(io.BytesIO(file)))
    assert picture.shape == (10, 5)
    assert picture[:4, :2].mean() > 200
    assert picture[6:].mean() < 50


def test_missing_clip_is_refused(tmp_path):
    with pytest.raises(OutputError):
        draw_film(tmp_path / "none.safetensors")


def _lanes(views, seconds, duration_s):
    case = {"views": views, "seconds": seconds, "truth": ["a"], "predicted": ["b"]}
    case["scores"] = {"true_probability": 0.1}
    return draw_lanes(case, ["a", "b"], ["b", "a"], duration_s)


def test_lanes_give_each_view_the_time_nearest_to_it_and_average_its_crops():
    views = [[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]]
    lanes, _ = _lanes(views, [[0, 2], [0, 2], [2, 6]], 8.0)
    assert [(lane.name, lane.style) for lane in lanes] == [("b", "wrong"), ("a", "right")]
    boxes = [box[:3] for box in lanes[1].boxes]
    # Middles at 1 s and 4 s: the border lies at 2.5 of 8 s. Nobody saw 2 to 2.5 s or 6 to 8 s.
    assert np.allclose(boxes, [(0, 25, 30), (31.25, 43.75, 90)])


def test_views_of_the_whole_clip_stand_side_by_side_and_a_single_view_has_no_lane():
    lanes, note = _lanes([[0.2, 0.8], [0.4, 0.6]], [[0, 7.9], [0.1, 8]], 8.0)
    assert np.allclose([box[:3] for box in lanes[0].boxes], [(0, 50, 80), (50, 50, 60)])
    assert "side by side" in note
    assert _lanes([[0.2, 0.8]], [[0, 1]], 8.0) == ((), "")


def test_protocol_in_words():
    protocol = _results(IDS, LABELS)["protocol"]
    text = protocol_text(protocol)
    assert text.startswith("Tested on 3 views × 1 crop of each clip")  # noqa: RUF001
    assert "8 frames (every second prepared frame, 1.60 s long) at 10 frames a second" in text
    one = protocol | {"views": 1, "sampling": "uniform", "fit": "whole", "input": "residual"}
    text = protocol_text(one)
    assert "averaged" not in text
    assert "8 frame differences (spread evenly over the clip)" in text
    assert protocol_text({}) == ""


def test_baseline_and_commonest_mistakes_are_those_of_the_counts():
    confusion = {"counts": [[3, 1, 0], [4, 6, 0], [0, 2, 0]]}
    assert commonest_share(confusion) == (1, 10 / 16)
    assert worst_pairs(confusion, LABELS, most=2) == [
        (LABELS[1], LABELS[0], 4, 10),
        (LABELS[2], LABELS[1], 2, 2),
    ]
    assert commonest_share({"counts": [[0]]}) is None


def test_a_heading_says_its_interval_or_that_there_is_none():
    known = {"mean": 0.9, "ci_low": 0.8, "ci_high": 1.0}
    text = re.sub("<[^>]*>", "", stated_interval(known, "top1", "95 %"))
    assert text == "95 % interval 0.800 to 1.000"
    none = {"mean": 1.0, "ci_low": None, "ci_high": None, "reason": "all <alike>"}
    text = re.sub("<[^>]*>", "", stated_interval(none, "top1", "90 %"))
    assert unescape(text) == "no 90 % interval: all <alike>"

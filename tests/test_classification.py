"""Clips take the same way as scans: from files to a report, and on to long videos."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.classification.recognize import Recognition, find_segments, recognize
from pipeline.classification.train import make_loss
from pipeline.classification.truth import read_truth
from pipeline.config import parse_config
from pipeline.files import read_json
from pipeline.motions import MOTIONS, draw_motion, draw_scene, write_stitched
from pipeline.run import Run, create_run, open_run
from pipeline.stages import find_stages
from tests.runs import go, with_sections
from tests.waking import wake
from volumetric.cases import Case, write_cases
from volumetric.errors import ConfigError, ManifestError, OutputError
from volumetric.inference.timeline import Timeline
from volumetric.io.video import write_video
from volumetric.metrics import youden_threshold
from volumetric.model import load_classifier, load_classifier_spec, load_model

TWO = ("slow to the right", "very fast to the left")


def write_clips(folder: Path, *, labels: tuple[str, ...] = TWO, each: int = 6) -> Path:
    """Manifest of small mp4 files of two motions, in two folds, and one file that is broken."""
    rng = np.random.default_rng(0)
    cases = []
    for label in labels:
        for number in range(each):
            name = f"{label.replace(' ', '-')}-{number}"
            path = folder / f"{name}.mp4"
            frames = draw_motion(label, draw_scene(rng), n_frames=26)
            write_video(path, (torch.from_numpy(frame) for frame in frames), rate=12)
            cases.append(Case(name, f"scene_{number}", number % 2, path, label=label))
    broken = folder / "broken.mp4"
    broken.write_bytes(cases[0].image.read_bytes()[:300])
    cases.append(Case("broken", "broken", 0, broken, label=labels[0]))
    write_cases(folder / "clips.csv", cases, root=folder)
    about = {"name": "clips", "modality": "video", "labels": list(labels), "sides_matter": True}
    (folder / "clips.yaml").write_text(yaml.safe_dump({**about, "cases": "clips.csv"}))
    return folder / "clips.yaml"


def quick_config(manifest: Path, **sections: dict[str, Any]) -> Any:
    values: dict[str, Any] = {
        "name": "clips",
        "task": "classify",
        "device": "cpu",
        "data": {"manifest": str(manifest), "fold": 0},
        "prepare": {"rate": 12, "size": 32},
        "model": {"frames": 12, "sampling": "dense", "size": 32, "fit": "whole"},
        "train": {
            "epochs": 2,
            "steps_per_epoch": 3,
            "batch_size": 4,
            "warmup_steps": 2,
            "compile": False,
            "ema": 0.5,
        },
        "predict": {"views": 2},
        "evaluate": {"resamples": 200},
    }
    return parse_config(with_sections(values, sections), path="test")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def once(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Run[Any]:
    """A run taken through all stages, made once; tests that change it take a copy."""
    run = create_run(quick_config(clips), tmp_path_factory.mktemp("once") / "run")
    go(run)
    return run


@pytest.fixture
def finished(once: Run[Any], tmp_path: Path) -> Run[Any]:
    shutil.copytree(once.folder, tmp_path / "copy")
    return open_run(tmp_path / "copy")


def test_from_files_to_results(once: Run[Any]) -> None:
    results = read_json(once.folder / "results.json")
    held_out = [case for case in once.cases if case.fold == 0 and case.id != "broken"]
    assert results["task"] == "classify"
    assert results["n_cases"] == len(held_out) == 6
    assert [case["id"] for case in results["cases"]] == [case.id for case in held_out]
    assert results["protocol"] | {"rate": 12.0} == {
        **{"views": 2, "crops": 1, "mirrored": 1, "frames": 12, "stride": 1, "sampling": "dense"},
        **{"size": 32, "fit": "whole", "lag": None, "rate": 12.0, "input": "rgb"},
    }
    for one in results["cases"]:
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert one["seconds"][0] == pytest.approx([0, 1])  # 12 of 26 frames, 12 a second
        assert one["seconds"][1] == pytest.approx([14 / 12, 26 / 12])
        mean = np.mean(one["views"], axis=0)
        assert list(one["probabilities"].values()) == pytest.approx(mean.tolist(), abs=1e-6)
    right = [one["truth"] == one["predicted"] for one in results["cases"]]
    assert results["metrics"]["top1"]["all"]["mean"] == pytest.approx(np.mean(right))
    assert sum(map(sum, results["confusion"]["counts"])) == 6
    with (once.folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [case.id for case in held_out]


def test_with_one_fold_nothing_is_chosen_on_it(finished: Run[Any]) -> None:
    results = read_json(finished.folder / "results.json")
    for choice in results["thresholds"]["0"].values():
        assert choice["value"] == 0.5
        assert "another fold" in choice["reason"]
    temperature = results["temperature"]
    assert (temperature["folds"], temperature["reliability"]) == (None, {})
    assert temperature["metrics"]["nll"]["all"]["mean"] is None
    assert "one fold only" in temperature["metrics"]["nll"]["all"]["reason"]
    page = find_stages(finished).report(finished).read_text(encoding="utf-8")
    assert "No temperature was fitted: one fold only" in page


def test_each_fold_is_judged_by_what_the_other_chose(finished: Run[Any]) -> None:
    go(finished, 1)
    results = read_json(finished.folder / "results.json")
    of_fold = {fold: [case for case in results["cases"] if case["fold"] == fold] for fold in (0, 1)}
    assert [len(cases) for cases in of_fold.values()] == [6, 6]
    hits = 0
    for fold, other in ((0, 1), (1, 0)):
        scores = [case["probabilities"][TWO[0]] for case in of_fold[other]]
        own = [case["truth"] == [TWO[0]] for case in of_fold[other]]
        choice = results["thresholds"][str(fold)][TWO[0]]
        assert choice["value"] == (youden_threshold(scores, own) or 0.5)
        hits += sum(
            case["probabilities"][TWO[0]] >= choice["value"]
            for case in of_fold[fold]
            if case["truth"] == [TWO[0]]
        )
    assert results["metrics"]["sensitivity"][TWO[0]]["mean"] == pytest.approx(hits / 6)
    temperature = results["temperature"]
    assert list(temperature["folds"]) == ["0", "1"]
    assert all(folds["all"]["value"] > 0 for folds in temperature["folds"].values())
    assert temperature["metrics"]["nll"]["all"]["mean"] is not None
    assert sum(one["n"] for one in temperature["reliability"]["all"]) == 12
    page = find_stages(finished).report(finished).read_text(encoding="utf-8")
    assert "Calibration with temperature" in page
    assert repr(temperature["folds"]["1"]["all"]["value"]) in page


def test_a_broken_clip_is_set_apart_and_the_rest_goes_on(once: Run[Any]) -> None:
    (entry,) = read_json(once.folder / "quarantine.json")
    assert entry["id"] == "broken"
    assert entry["reason"]
    assert entry["remedy"]
    assert "broken.mp4" in entry["path"]


def test_clips_shorter_than_what_the_network_sees_are_said(finished: Run[Any], clips: Path) -> None:
    run = Run(finished.folder, quick_config(clips, model={"frames": 14, "stride": 2}))
    find_stages(run).prepare(run)  # 26 frames each, of which it sees 27
    found = [one for one in read_json(run.folder / "findings.json") if one["code"] == "short-clip"]
    assert len(found) == 12
    assert "lasts 2.17 s, the network sees 2.25" in found[0]["reason"]


def test_the_report_is_one_page(finished: Run[Any]) -> None:
    page = find_stages(finished).report(finished)
    text = page.read_text(encoding="utf-8")
    for case in read_json(finished.folder / "results.json")["cases"]:
        assert case["id"] in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_what_stands_is_not_made_again(finished: Run[Any]) -> None:
    watched = [*finished.prepared.glob("*.safetensors"), *finished.predictions.glob("*.json")]
    before = {path: path.stat().st_mtime_ns for path in watched}
    assert len(before) == 12 + 6
    go(finished)
    assert {path: path.stat().st_mtime_ns for path in watched} == before


def test_other_settings_are_not_mixed_in(finished: Run[Any], clips: Path) -> None:
    config = quick_config(clips, train={"learning_rate": 0.01})
    other = Run(finished.folder, config)
    with pytest.raises(OutputError, match="other settings"):
        find_stages(other).predict(other, 0)


def test_a_changed_label_is_another_truth(finished: Run[Any], tmp_path: Path) -> None:
    """The label is part of the case: the network that learned the old one does not stand."""
    from pipeline.classification.keys import training_key

    folder = tmp_path / "changed"
    shutil.copytree(finished.manifest.parent, folder)
    text = (folder / "clips.csv").read_text().splitlines()
    changed = [row.replace(TWO[0], TWO[1]) if "slow-to-the-right-1" in row else row for row in text]
    (folder / "clips.csv").write_text("\n".join(changed) + "\n")
    run = Run(finished.folder, quick_config(folder / "clips.yaml"))
    assert training_key(run, 0) != training_key(finished, 0)


def test_labels_declared_anew_are_checked_anew(finished: Run[Any], tmp_path: Path) -> None:
    """A label that the manifest takes back is no label any more, though no clip has changed."""
    folder = tmp_path / "other"
    shutil.copytree(finished.manifest.parent, folder)
    about = yaml.safe_load((folder / "clips.yaml").read_text())
    about["labels"] = [TWO[0], "something else"]
    (folder / "clips.yaml").write_text(yaml.safe_dump(about))
    run = Run(finished.folder, quick_config(folder / "clips.yaml"))
    find_stages(run).prepare(run)
    entries = read_json(run.folder / "quarantine.json")
    assert [entry["code"] for entry in entries].count("unknown-label") == 6
    assert not [case for case in run.labelled_cases() if case.label == TWO[1]]


def test_the_exported_model_says_how_it_is_used(once: Run[Any]) -> None:
    spec = load_classifier_spec(once.model)
    assert list(spec.classes) == list(TWO)
    assert (spec.frames, spec.rate, spec.short_side, spec.views) == (12, 12.0, 32, 2)
    assert load_classifier(once.model).spec == spec
    with pytest.raises(ConfigError, match="volumetric recognize"):
        load_model(once.model)


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "mobilenet_v2", "input": "residual", "aggregate": "attention", "frames": 4},
        {"kind": "mobilenet_v3_small", "shift": True, "sampling": "segments", "frames": 4},
        {"kind": "r2plus1d_18", "input": "both", "sampling": "uniform", "frames": 4},
    ],
    ids=lambda model: model["kind"],
)
def test_other_networks_take_the_same_way(
    clips: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    train = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2}
    config = quick_config(clips, model=model, train=train)
    run = create_run(config, tmp_path / "run")
    go(run)
    results = read_json(run.folder / "results.json")
    assert results["n_cases"] == 6
    assert results["protocol"]["views"] == (1 if model.get("sampling") == "uniform" else 2)


def frozen_config(clips: Path, weights: Path, **sections: dict[str, Any]) -> Any:
    """Two heads on a trunk that keeps its weights, which are random ones under the right names."""
    from torchvision.models import get_model

    if not weights.exists():
        torch.manual_seed(0)
        network = get_model("mobilenet_v3_small")
        wake(network)
        torch.save(network.state_dict(), weights)
    model = {"kind": "mobilenet_v3_small", "weights": str(weights), "trunk": "frozen"}
    model |= {"input": "both", "normalise": "clip", "aggregate": "conv3d"}
    model |= {"frames": 6, "sampling": "uniform"}
    train = {"members": 2, "augment": {"mixup_alpha": 0.3}, "adjust_logits": True}
    given = {"model": model, "train": train}
    for name, fields in sections.items():
        given[name] = {**given.get(name, {}), **fields}
    return quick_config(clips, **given)


def test_heads_on_a_frozen_trunk(clips: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    run = create_run(frozen_config(clips, weights), tmp_path / "run")
    go(run)
    assert read_json(run.folder / "results.json")["n_cases"] == 6
    seen = sorted((run.folder / "features").iterdir())
    assert len(seen) == 12
    network = load_classifier(run.model).networks[0]
    state, original = network.trunk.state_dict(), torch.load(weights, weights_only=True)
    assert len(network.heads) == 2
    assert len(state) > 40
    for name, value in state.items():
        assert torch.equal(value, original[f"features.{name}"]), name
    # The answers of the exported network are those of its heads for what was kept.
    probabilities = []
    for path in seen:
        features = load_file(path)["features"]
        assert features.shape == (1, 96, 6, 2, 2)  # sides matter: no mirror image
        logits = torch.stack([head(features.float()) for head in network.heads]).mean(0)
        probabilities.append(logits.softmax(1)[0].tolist())
    found = {case["id"]: case for case in read_json(run.folder / "results.json")["cases"]}
    for path, expected in zip(seen, probabilities, strict=True):
        if path.stem in found:
            one = found[path.stem]["probabilities"]
            assert list(one.values()) == pytest.approx(expected, abs=5e-3)
    # Scaled by what was learned from, not by what is held out.
    learned = [load_file(path)["features"] for path in seen if path.stem not in found]
    mean = torch.cat(learned).float().mean((0, 2, 3, 4))
    torch.testing.assert_close(network.heads[1].centre, mean, atol=1e-3, rtol=1e-3)


def test_what_a_frozen_trunk_sees_is_computed_once(clips: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    config = frozen_config(clips, weights, train={"epochs": 1, "members": 1})
    run = create_run(config, tmp_path / "run")
    stages = find_stages(run)
    stages.prepare(run)
    stages.train(run, 0)
    seen = sorted((run.folder / "features").iterdir())
    seen[3].write_bytes(b"broken")
    before = {path: path.stat().st_mtime_ns for path in seen}
    stages.train(run, 1)
    after = {path: path.stat().st_mtime_ns for path in seen}
    assert [path for path in seen if after[path] != before[path]] == [seen[3]]
    state = torch.load(weights, weights_only=True)
    torch.save({name: value * 1.01 for name, value in state.items()}, weights)
    stages.train(run, 0)
    assert all(path.stat().st_mtime_ns != after[path] for path in seen)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"kind": "r3d_18", "weights": "kinetics"}, "a 2D network"),
        ({"weights": "none"}, "weights"),
        ({"sampling": "dense"}, "sampling uniform"),
        ({"shift": True}, "shift false"),
        ({"trunk": "train"}, "train.members"),
    ],
)
def test_what_cannot_be_frozen(
    clips: Path, tmp_path: Path, model: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        frozen_config(clips, tmp_path / "weights.pt", model=model)


def test_weights_from_elsewhere_learn_on(clips: Path, tmp_path: Path) -> None:
    """All that eases it, together: the trunk moves, but not what its batch norms have counted."""
    weights = tmp_path / "weights.pt"
    eased = {"layer_decay": 0.8, "unfreeze_epochs": 1, "norm": "eval"}
    eased |= {"loss": "focal", "focal_gamma": 1.5, "class_weights": 0.5}
    train = {"members": 1, "augment": {}, "adjust_logits": False, **eased}
    config = frozen_config(clips, weights, model={"trunk": "train"}, train=train)
    run = create_run(config, tmp_path / "run")
    stages = find_stages(run)
    stages.prepare(run)
    stages.train(run, 0)
    network = load_classifier(run.model).networks[0]
    original = torch.load(weights, weights_only=True)
    state = network.trunk.state_dict()
    moved = {name for name in state if not torch.equal(state[name], original[f"features.{name}"])}
    counted = {name for name in state if "running" in name}
    assert counted
    assert moved & counted == set()
    assert {name for name, _ in network.trunk.named_parameters()} <= moved
    with (run.fold(0) / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_adjusted_logits_learn_above_what_is_drawn(clips: Path, tmp_path: Path) -> None:
    """Answers that know the classes' frequencies alone have no loss to gain, once adjusted."""
    weights = tmp_path / "weights.pt"
    drawn = torch.tensor([0.9, 0.1])
    targets = torch.eye(2)[[0] * 9 + [1]]
    for adjust, best in ((True, torch.zeros(10, 2)), (False, drawn.log().expand(10, 2))):
        train = {"adjust_logits": adjust, "label_smoothing": 0.0}
        run = create_run(frozen_config(clips, weights, train=train), tmp_path / str(adjust))
        logits = best.clone().requires_grad_()
        make_loss(run, drawn)(logits, targets).backward()
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad.sum(0), torch.zeros(2), atol=1e-6, rtol=0)


def test_several_labels_a_clip(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    shutil.copytree(clips.parent, folder)
    rows = [row.split(",") for row in (folder / "clips.csv").read_text().splitlines()]
    column = rows[0].index("label")
    for number, row in enumerate(rows[1:]):
        row[column] = [";".join(TWO), TWO[0], ""][number % 3]
    (folder / "clips.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    about = yaml.safe_load((folder / "clips.yaml").read_text())
    (folder / "clips.yaml").write_text(yaml.safe_dump({**about, "multi_label": True}))
    run = create_run(quick_config(folder / "clips.yaml"), tmp_path / "run")
    go(run)
    results = read_json(run.folder / "results.json")
    assert results["multi_label"]
    # An empty cell says that a clip has none of the labels: it counts as well.
    held_out = {row[0]: row[column] for row in rows[1:] if row[rows[0].index("fold")] == "0"}
    found = {one["id"]: ";".join(one["truth"]) for one in results["cases"]}
    assert "" in found.values()
    assert found == {name: held_out[name] for name in found}
    assert results["n_cases"] == len(found) == len(held_out) - 1  # the broken one
    assert results["metrics"]["auroc"][TWO[1]]["mean"] is not None
    assert results["metrics"]["average_precision"]["all"]["mean"] is not None
    assert results["confusion"] is None
    for metric in ("sensitivity", "specificity", "accuracy", "f1", "nll", "brier"):
        assert set(results["metrics"][metric]) == {*TWO, "all"}
        assert results["metrics"][metric]["all"]["mean"] is not None
    assert set(results["reliability"]) == set(TWO)
    find_stages(run).report(run)


def test_sides_that_matter_are_not_exchanged_in_prediction(clips: Path, tmp_path: Path) -> None:
    run = create_run(quick_config(clips, predict={"mirror_axes": [2]}), tmp_path / "run")
    find_stages(run).prepare(run)
    with pytest.raises(ConfigError, match="left for right"):
        find_stages(run).train(run, 0)


def test_a_long_video_gets_a_timeline(once: Run[Any], tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    truth = write_stitched(videos / "long.mp4", n_segments=3)
    rows = [row.rsplit(",", 1) for row in truth.read_text().splitlines()]
    with pytest.raises(ManifestError, match="does not know"):  # of the eight it learned two
        recognize(once.model, [videos], out=tmp_path / "none", device="cpu", truth=truth)
    known = [f"{row},{TWO[number % 2]}" for number, (row, _) in enumerate(rows[1:])]
    truth.write_text("\n".join([",".join(rows[0]), *known]) + "\n")
    (videos / "bad.mp4").write_bytes(b"no video at all")
    out = tmp_path / "out"
    refused, n_done = recognize(once.model, [videos], out=out, device="cpu", truth=truth)
    assert (n_done, [entry["id"] for entry in refused]) == (1, ["bad"])
    found = json.loads((out / "long.json").read_text())
    n_seconds = int(np.ceil(found["duration_s"]))
    assert np.array(found["seconds"]).shape == (n_seconds, 2)
    assert np.array(found["seconds"]).sum(1) == pytest.approx(np.ones(n_seconds), abs=1e-4)
    segments = found["segments"]
    assert segments[0]["start_s"] == 0
    assert segments[-1]["end_s"] == pytest.approx(found["duration_s"], abs=0.01)
    assert (out / "long_preview.mp4").stat().st_size > 1000
    results = json.loads((out / "results.json").read_text())
    assert results["metrics"]["ap_0.5"]["all"]["mean"] is not None
    assert results["n_videos"] == 1
    page = (out / "index.html").read_text()
    assert "long_preview.mp4" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "Of one video only" in page  # why there is no interval
    # Without a truth nothing is scored, and no score of another time is left.
    how = Recognition(preview=False)
    recognize(once.model, [videos / "long.mp4"], out=out, device="cpu", how=how)
    assert not (out / "results.json").exists()


def test_a_truth_of_other_videos_is_refused(
    once: Run[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = tmp_path / "a.mp4"
    shutil.copy(once.cases[0].image, video)
    other = tmp_path / "b.mp4"
    other.symlink_to(video)  # it goes by its own name
    truth = tmp_path / "truth.csv"
    row = f",0,26000,{TWO[0]}\n"
    how = Recognition(preview=False)
    given: dict[str, Any] = {"device": "cpu", "truth": truth, "how": how}
    truth.write_text("video,start_s,end_s,label\nc.mp4" + row)
    with pytest.raises(ManifestError, match="tells of c, and not of a"):
        recognize(once.model, [video], out=tmp_path / "out", **given)
    truth.write_text("video,start_s,end_s,label\nc.mp4" + row + "b.avi" + row)
    recognize(once.model, [video, other], out=tmp_path / "out", **given)
    said = caplog.text
    assert "does not tell of a" in said
    assert "tells of others, too: c" in said
    assert "b: the truth ends at 26000 s, the video at 2.2 s" in said
    assert read_json(tmp_path / "out" / "results.json")["n_videos"] == 1


def test_where_nothing_can_be_written_nothing_is_begun(once: Run[Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "quarantine.json").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written"):
        recognize(once.model, [once.cases[0].image], out=out, device="cpu")


def test_a_disk_that_fails_is_no_defect_of_ours(once: Run[Any], tmp_path: Path) -> None:
    name = once.cases[0].image.stem
    (tmp_path / f"{name}_segments.csv").mkdir()
    (entry,), n_done = recognize(once.model, [once.cases[0].image], out=tmp_path, device="cpu")
    assert (entry["code"], n_done) == ("os-error", 0)
    assert entry["path"].endswith("_segments.csv")


@pytest.mark.parametrize(
    "wrong",
    [{"step_s": 0.0}, {"step_s": float("inf")}, {"threshold": 5.0}, {"shortest_s": -1.0}],
    ids=str,
)
def test_a_search_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Recognition(**wrong)  # type: ignore[arg-type]


def test_several_labels_hold_where_each_is_likely(once: Run[Any]) -> None:
    """The most probable of labels that do not exclude each other need not hold at all."""
    spec = load_classifier_spec(once.model)
    rows = np.array([[0.1, 0.2], [0.1, 0.2], [0.9, 0.8], [0.9, 0.8], [0.2, 0.8], [0.2, 0.1]])
    timeline = Timeline(np.arange(6) + 0.5, rows, window_s=1, step_s=1, duration_s=6)
    how = Recognition(smooth=1)
    found = find_segments(timeline, replace(spec, multi_label=True), how)
    assert [(one.label, round(one.start_s), round(one.end_s)) for one in found] == [
        (TWO[0], 2, 4),
        (TWO[1], 2, 5),
    ]
    assert len(find_segments(timeline, spec, how)) == 4  # each moment is of one


def test_outputs_of_one_name_are_refused(once: Run[Any], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="overwrite"):
        recognize(
            once.model,
            [tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.avi"],
            out=tmp_path / "out",
            device="cpu",
            how=Recognition(preview=False),
        )
    with pytest.raises(ManifestError, match="mistaken for results"):
        recognize(once.model, [tmp_path / "results.mp4"], out=tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    "text",
    [
        "video,start,end,label\n",
        "video,start_s,end_s,label\na,x,2,b\n",
        "video,start_s,end_s,label\na,3,2,b\n",
    ],
)
def test_a_truth_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(ManifestError):
        read_truth(path, classes=["b"])


@pytest.mark.parametrize("label", MOTIONS)
def test_only_the_order_of_the_frames_tells_a_motion(label: str) -> None:
    """Any 24 frames in a row of one scene are the same set, whatever the motion."""
    scene = draw_scene(np.random.default_rng(3))
    frames = list(draw_motion(label, scene, n_frames=40))
    other = MOTIONS[(MOTIONS.index(label) + 3) % len(MOTIONS)]
    expected = sorted(frame.tobytes() for frame in draw_motion(other, scene, n_frames=24))
    for start in (0, 5, 16):
        assert sorted(frame.tobytes() for frame in frames[start : start + 24]) == expected

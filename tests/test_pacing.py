"""What is learned from clips without labels, and what it is good for afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.classification.prepare_clips import prepare
from pipeline.classification.train import start_network
from pipeline.classification.train import train as train_classifier
from pipeline.config import RunConfig, parse_config
from pipeline.pretraining.clips import evaluate, train
from pipeline.report import write_report
from pipeline.run import Run, create_run
from tests.test_classification import write_clips
from volumetric.errors import ConfigError
from volumetric.model import load_classifier, load_classifier_spec
from volumetric.pacing import choose_pace, name_paces

TWO = ("medium to the right", "fast to the right")  # which way, tells the order alone


def pacing_config(manifest: Path, **train: object) -> RunConfig:
    values = {
        "name": "paces",
        "task": "pretrain_clips",
        "device": "cpu",
        "data": {"manifest": str(manifest), "fold": 0},
        "prepare": {"size": 32, "rate": 12},
        "model": {"frames": 8, "size": 32, "input": "both"},
        "train": {
            "batch_size": 16,
            "epochs": 3,
            "steps_per_epoch": 40,
            "learning_rate": 0.003,
            "warmup_steps": 5,
            "paces": [1],
            "ema": 0.9,
            "compile": False,
            "augment": {"scale": [1.0, 1.0], "aspect": [1.0, 1.0]},
            **train,
        },
        "evaluate": {"resamples": 200},
    }
    return parse_config(values, path="pacing_config")


def _labelling(manifest: Path, weights: str, **train: object) -> RunConfig:
    values = pacing_config(manifest).model_dump(mode="json")
    kept = {name: values[name] for name in ("name", "device", "data", "prepare", "model")}
    kept["model"]["weights"] = weights
    learning = {"epochs": 1, "steps_per_epoch": 2, "compile": False, **train}
    return parse_config({**kept, "task": "classify", "train": learning}, path="labelling")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("paces")
    run = create_run(
        pacing_config(write_clips(folder / "clips", labels=TWO, each=16)), folder / "run"
    )
    prepare(run)
    train(run, 0)
    evaluate(run)
    return run


@given(st.integers(1, 80), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_frames_run_at_their_pace_and_way(n_frames: int, length: int, seed: int) -> None:
    paces = (1, 2, 4)
    rng = np.random.default_rng(seed)
    frames, number = choose_pace(n_frames, rng, length=length, stride=1, paces=paces)
    assert frames.shape == (length,)
    assert frames.min() >= 0
    assert frames.max() < n_frames
    way = 1 if number < len(paces) else -1
    assert name_paces(paces)[number].startswith("forwards" if way == 1 else "backwards")
    steps = np.diff(frames)
    if length <= n_frames:
        assert (steps == way * paces[number % len(paces)]).all()
    else:  # too short: slowed evenly, and not held at an end
        assert number % len(paces) == 0
        assert (way * steps >= 0).all()
        assert {int(frames[0]), int(frames[-1])} == {0, n_frames - 1}


def test_every_pace_and_way_is_drawn_where_the_clip_is_long_enough() -> None:
    rng = np.random.default_rng(0)
    for n_frames, paces in ((30, {1, 2, 4}), (20, {1, 2}), (8, {1})):
        drawn = [
            choose_pace(n_frames, rng, length=8, stride=1, paces=(1, 2, 4))[1] for _ in range(300)
        ]
        counts = np.bincount(drawn, minlength=6)
        wanted = [pace in paces for pace in (1, 2, 4)] * 2
        assert ((counts > 0) == wanted).all()
        assert counts[wanted].min() > 0.5 * 300 / (2 * len(paces))


def test_paces_and_ways_of_held_out_clips_are_found_out(done: Run) -> None:
    """Of two, by chance a half; the clips' own labels play no part."""
    results = json.loads((done.folder / "results.json").read_text())
    assert results["task"] == "pretrain_clips"
    assert results["metrics"]["top1"]["mean"]["mean"] > 0.65
    assert all(0 <= case["scores"]["top1"]["mean"] <= 1 for case in results["cases"])
    spec = load_classifier_spec(done.model)
    assert spec.classes == ["forwards x1", "backwards x1"]
    page = write_report(done.folder, [], classes={}).read_text()
    assert "Pretraining report" in page


def test_labels_play_no_part(done: Run, tmp_path: Path) -> None:
    """Without a label the same weights are learned, to the bit."""
    shutil.copytree(done.manifest.parent, tmp_path / "clips")
    table = tmp_path / "clips" / "clips.csv"
    lines = table.read_text().splitlines()
    column = lines[0].split(",").index("label")
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[column] = ""
    table.write_text("\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n")
    run = create_run(pacing_config(tmp_path / "clips" / "clips.yaml"), tmp_path / "run")
    prepare(run)
    train(run, 0)
    known = [run.model / "fold_0.safetensors", done.model / "fold_0.safetensors"]
    assert known[0].read_bytes() == known[1].read_bytes()


def test_a_network_of_labels_starts_from_it_all_but_its_head(done: Run, tmp_path: Path) -> None:
    config = _labelling(done.manifest, str(done.model))
    run = create_run(config, tmp_path / "run")
    prepare(run)
    train_classifier(run, 0)
    spec = load_classifier_spec(run.model)
    start = start_network(run, spec, 0).state_dict()
    (pretrained,) = load_classifier(done.model, folds=[0]).networks
    for name, value in pretrained.state_dict().items():
        if name.startswith("head."):
            assert start[name].shape[0] == len(spec.classes)
        else:
            assert torch.equal(start[name], value), name
    with pytest.raises(ConfigError, match="fold 1 is held out"):
        start_network(run, spec, 1)  # another fold's weights have seen its clips


def test_what_cannot_be_is_refused(done: Run, tmp_path: Path) -> None:
    other = _labelling(done.manifest, str(done.model)).model_dump(mode="json")
    other["model"]["input"] = "rgb"
    run = create_run(parse_config(other, path="x"), tmp_path / "rgb")
    prepare(run)
    with pytest.raises(ConfigError, match="holds another network: 1 weights differ, stem"):
        train_classifier(run, 0)
    for fields, said in (
        ({"paces": [2, 2]}, "one twice"),
        ({"norm": "eval"}, "can only be chosen with model.weights"),
    ):
        with pytest.raises(ConfigError, match=said):
            pacing_config(done.manifest, **fields)
    about = yaml.safe_load(done.manifest.read_text())
    assert "labels" in about


def test_a_run_goes_on_and_leaves_what_stands(done: Run) -> None:
    before = (done.model / "fold_0.safetensors").stat().st_mtime_ns
    history = (done.fold(0) / "history.csv").read_text()
    train(done, 0)
    assert (done.fold(0) / "history.csv").read_text() == history
    assert (done.model / "fold_0.safetensors").stat().st_mtime_ns >= before

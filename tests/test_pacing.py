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
from pipeline.classification.recognize import recognize
from pipeline.classification.train import start_network
from pipeline.classification.train import train as train_classifier
from pipeline.compare import compare
from pipeline.config import RunConfig, parse_config
from pipeline.pretraining.clips import evaluate, train
from pipeline.report import write_report
from pipeline.run import Run, create_run
from tests.test_classification import write_clips
from volumetric.errors import ConfigError, UnreadableFileError
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
    with pytest.raises(ConfigError, match="none held out all cases that fold 1 holds out"):
        start_network(run, spec, 1)  # another fold's weights have seen its clips


def test_folds_of_other_cases_are_not_taken_for_the_same(done: Run, tmp_path: Path) -> None:
    """The numbers of folds agree, and what they hold out does not."""
    shutil.copytree(done.manifest.parent, tmp_path / "clips")
    table = tmp_path / "clips" / "clips.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    column = rows[0].index("fold")
    for row in rows[1:]:
        if "scene_1" in row:
            row[column] = "0"
    table.write_text("\n".join(",".join(row) for row in rows) + "\n")
    run = create_run(
        _labelling(tmp_path / "clips" / "clips.yaml", str(done.model)), tmp_path / "run"
    )
    prepare(run)
    with pytest.raises(ConfigError, match="none held out all cases that fold 0 holds out"):
        train_classifier(run, 0)
    about = yaml.safe_load((tmp_path / "clips" / "clips.yaml").read_text())
    (tmp_path / "clips" / "clips.yaml").write_text(yaml.safe_dump({**about, "name": "others"}))
    other = create_run(
        _labelling(tmp_path / "clips" / "clips.yaml", str(done.model)), tmp_path / "other"
    )
    prepare(other)
    train_classifier(other, 0)  # of another data set, as far as anybody says
    assert load_classifier_spec(other.model).folds["0"]["held_out"] == sorted(
        case.id for case in other.cases if case.fold == 0
    )


def test_each_fold_sees_through_its_own_trunk(tmp_path: Path) -> None:
    """A frozen 2D network of another run, one a fold, whose features are kept by case."""
    manifest = write_clips(tmp_path / "clips", each=4)
    values = pacing_config(manifest, epochs=1, steps_per_epoch=1).model_dump(mode="json")
    values["model"] |= {"kind": "mobilenet_v3_small", "aggregate": "lstm"}
    source = create_run(parse_config(values, path="x"), tmp_path / "source")
    prepare(source)
    for fold in (0, 1):
        train(source, fold)
    values = _labelling(manifest, str(source.model)).model_dump(mode="json")
    values["model"] |= {
        **{"kind": "mobilenet_v3_small", "aggregate": "mean", "trunk": "frozen"},
        "sampling": "uniform",
    }
    run = create_run(parse_config(values, path="x"), tmp_path / "run")
    prepare(run)
    seen = {}
    for fold in (0, 1):
        train_classifier(run, fold)
        kept = sorted((run.folder / "features").glob("*.safetensors"))
        seen[fold] = [path.read_bytes() for path in kept]
    assert len(seen[0]) == 8
    assert all(one != other for one, other in zip(seen[0], seen[1], strict=True))


def test_what_learned_without_labels_labels_nothing(done: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learned without labels"):
        recognize(done.model, [done.cases[0].image], out=tmp_path / "out", device="cpu")


def test_two_ways_to_learn_without_labels_are_compared(done: Run, tmp_path: Path) -> None:
    shutil.copytree(done.folder, tmp_path / "other")
    page, found = compare(done.folder, tmp_path / "other", out=tmp_path / "both", n_resamples=50)
    assert found["main"] == {"metric": "top1", "class": "mean"}
    assert page.exists()


def test_what_cannot_be_is_refused(done: Run, tmp_path: Path) -> None:
    def labelling(**model: object) -> Run:
        values = _labelling(done.manifest, str(done.model)).model_dump(mode="json")
        values["model"] |= model
        name = "-".join(map(str, model.values())).replace("/", "")
        run = create_run(parse_config(values, path="x"), tmp_path / name)
        prepare(run)
        return run

    with pytest.raises(ConfigError, match="holds another network: 1 weights differ, stem"):
        train_classifier(labelling(input="rgb"), 0)
    with pytest.raises(ConfigError, match="normalise fixed in place of clip"):
        train_classifier(labelling(normalise="clip"), 0)
    with pytest.raises(UnreadableFileError, match="does not exist"):
        train_classifier(labelling(weights=str(tmp_path / "nowhere")), 0)


@pytest.mark.parametrize(
    ("section", "fields", "said"),
    [
        ("train", {"paces": [2, 2]}, "one twice"),
        ("train", {"norm": "eval"}, "can only be chosen with model.weights"),
        ("train", {"augment": {"mixup_alpha": 0.3}}, "leave out mixup_alpha"),
        ("model", {"frames": 1}, "order of frames must be seen"),
        ("model", {"kind": "resnet18", "input": "rgb"}, "order of frames must be seen"),
    ],
)
def test_choices_that_mean_nothing_are_refused(
    section: str, fields: dict, said: str, done: Run
) -> None:
    values = done.config.model_dump(mode="json")
    values[section] |= fields
    with pytest.raises(ConfigError, match=said):
        parse_config(values, path="x")


@pytest.mark.parametrize(
    ("field", "value"), [("folds", []), ("folds", {"0": {"key": "k"}}), ("about", None)]
)
def test_a_damaged_model_is_refused(field: str, value: object, done: Run, tmp_path: Path) -> None:
    shutil.copytree(done.model, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(UnreadableFileError, match="is no model folder"):
        load_classifier_spec(tmp_path / "model")


def test_a_run_leaves_what_stands(done: Run) -> None:
    weights, history = done.model / "fold_0.safetensors", done.fold(0) / "history.csv"
    before = weights.read_bytes(), history.read_bytes()
    train(done, 0)
    assert (weights.read_bytes(), history.read_bytes()) == before

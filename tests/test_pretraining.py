"""What is learned from scans without labels, and what it is good for afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from pipeline.config import RunConfig, parse_config
from pipeline.keys import source_fold
from pipeline.pretraining.evaluate import evaluate
from pipeline.pretraining.train import train
from pipeline.report import write_report
from pipeline.run import Run, create_run
from pipeline.segmentation.prepare import prepare
from pipeline.segmentation.segment import segment
from pipeline.segmentation.train import train as train_segmentation
from tests.conftest import quick_config, write_blobs
from volumetric.errors import ConfigError, UnreadableFileError
from volumetric.folds import draw_share
from volumetric.masking import Hidden, explained, hide_blocks, hiding_loss
from volumetric.model import load_model, load_pretrained, load_pretrained_spec, start_from
from volumetric.networks import build_network


def pretrain_config(manifest: Path, **model: object) -> RunConfig:
    values = quick_config(manifest).model_dump(mode="json")
    kept = {name: values[name] for name in ("name", "device", "data", "model")}
    learning = {
        "epochs": 3,
        "steps_per_epoch": 30,
        "learning_rate": 0.005,
        "warmup_steps": 5,
        "compile": False,
        "ema": 0.8,
        "block": 4,
    }
    kept["model"] |= model
    values = {**kept, "task": "pretrain", "train": learning, "evaluate": {"resamples": 200}}
    return parse_config(values, path="pretrain_config")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pretrain")
    run = create_run(pretrain_config(write_blobs(folder / "blobs")), folder / "run")
    prepare(run)
    train(run, 0)
    evaluate(run)
    return run


@pytest.mark.parametrize("spacing", [(1, 1, 1), (4, 1, 1)])
def test_blocks_are_hidden_as_asked(spacing: tuple[int, int, int]) -> None:
    images = torch.randn(16, 2, 20, 33, 40) + 5
    generator = torch.Generator().manual_seed(0)
    seen, hidden = hide_blocks(images, generator, share=0.6, block=8, spacing=spacing)
    assert (seen[~hidden.where[:, None].expand_as(seen)] != 0).all()
    assert (seen[hidden.where[:, None].expand_as(seen)] == 0).all()
    assert torch.equal(hidden.images, images)
    assert hidden.where.float().mean() == pytest.approx(0.6, abs=0.05)
    # Runs of hidden voxels along an axis begin and end at the edges of blocks.
    depth = 8 // spacing[0]
    changes = (hidden.where[:, 1:] != hidden.where[:, :-1]).flatten(2).any(2)
    for one in changes:
        places = one.nonzero().flatten()
        assert len({int(place) % depth for place in places}) <= 1
    assert len({tuple(one.flatten().tolist()) for one in hidden.where[:, 0]}) > 1


def test_what_is_seen_costs_nothing() -> None:
    images = torch.randn(2, 1, 8, 8, 8)
    where = torch.zeros(2, 8, 8, 8, dtype=torch.bool)
    where[:, :4] = True
    hidden = Hidden(images, where)
    off = images.clone()
    off[:, :, 4:] += 100
    assert hiding_loss(off, hidden) == 0
    off[:, :, :4] += 2
    assert float(hiding_loss([off, off[..., ::2]], hidden)) == pytest.approx(4, rel=1e-5)


def test_explained_is_the_part_of_variance() -> None:
    images = torch.randn(1, 1, 8, 8, 8)
    where = torch.ones(1, 8, 8, 8, dtype=torch.bool)
    hidden = Hidden(images, where)
    assert explained(images, hidden) == 1
    assert explained(images.mean().expand_as(images), hidden) == pytest.approx(0, abs=1e-5)
    assert explained(images, Hidden(torch.ones_like(images), where)) is None
    assert explained(images, Hidden(images, ~where)) is None


def test_hidden_parts_are_found_out(done: Run) -> None:
    results = json.loads((done.folder / "results.json").read_text())
    assert results["task"] == "pretrain"
    assert results["n_cases"] == 4
    assert results["metrics"]["explained"]["mean"]["mean"] > 0.3
    page = write_report(done.folder, [], classes={}).read_text()
    assert "Pretraining report" in page
    assert repr(results["metrics"]["explained"]["mean"]["mean"]) in page


def test_masks_are_not_even_read(tmp_path: Path) -> None:
    manifest = write_blobs(tmp_path / "blobs")
    shutil.rmtree(manifest.parent / "masks")
    run = create_run(pretrain_config(manifest), tmp_path / "run")
    prepare(run)
    assert json.loads((run.folder / "quarantine.json").read_text()) == []
    assert len(list(run.prepared.glob("*.safetensors"))) == 8


def _segment_config(done: Run, **changes: object) -> RunConfig:
    values = quick_config(done.manifest).model_dump(mode="json")
    values["model"] |= {"weights": str(done.model), **changes}
    return parse_config(values, path="test")


def test_a_segmentation_starts_from_what_was_learned(done: Run, tmp_path: Path) -> None:
    run = create_run(_segment_config(done), tmp_path / "run")
    prepare(run)
    plan = json.loads((run.folder / "plan.json").read_text())
    spec = load_pretrained_spec(done.model)
    for name in ("patch_size", "features", "spacing_mm"):
        assert plan["values"][name] == list(getattr(spec, name))
        assert plan["why"][name] == "of the weights in model"
    learned = load_pretrained(done.model).networks[0].state_dict()
    torch.manual_seed(0)
    train_segmentation(run, 0)
    found = load_model(run.model)
    fresh = build_network(found.spec).state_dict()
    start = build_network(found.spec)
    start_from(start, done.model, fold="0")
    # All but the heads is what was learned before, and after training still nearer to it.
    for name, value in start.state_dict().items():
        same = not name.startswith("heads.")
        assert torch.equal(value, learned[name]) if same else value.shape[0] == 3, name
    name = "encoder.0.0.0.weight"
    after = found.networks[0].state_dict()[name]
    assert (after - learned[name]).abs().mean() < 0.5 * (after - fresh[name]).abs().mean()


def test_other_networks_and_other_models_are_refused(done: Run, tmp_path: Path) -> None:
    run = create_run(_segment_config(done, kind="residual_unet"), tmp_path / "a")
    with pytest.raises(ConfigError, match="holds a unet"):
        prepare(run)
    spec = load_pretrained_spec(done.model)
    wider = build_network(spec.__class__(**{**vars(spec), "features": [12, 24, 48]}))
    with pytest.raises(ConfigError, match=r"weights differ, .* first"):
        start_from(wider, done.model, fold="0")
    with pytest.raises(ConfigError, match="learned without labels") as caught:
        segment(done.model, [done.cases[0].image], out=tmp_path, device="cpu")
    assert "model.weights" in caught.value.remedy
    run = create_run(_segment_config(done, weights=str(tmp_path)), tmp_path / "b")
    with pytest.raises(UnreadableFileError, match="is no model folder"):
        prepare(run)


def test_bad_choices_are_refused(done: Run) -> None:
    with pytest.raises(ConfigError, match="cannot be pretrained here"):
        pretrain_config(done.manifest, kind="segresnet")
    with pytest.raises(ConfigError, match="pretraining starts from none"):
        pretrain_config(done.manifest, weights="somewhere")
    with pytest.raises(ConfigError, match="only kind slice_unet takes weights"):
        _segment_config(done, weights="imagenet")


def test_a_share_of_the_cases_is_learned_from(done: Run, tmp_path: Path) -> None:
    values = quick_config(done.manifest).model_dump(mode="json")
    values["train"] |= {"share": 0.5, "epochs": 1, "steps_per_epoch": 2}
    run = create_run(parse_config(values, path="test"), tmp_path / "run")
    prepare(run)
    learned = [case for case in run.cases if case.fold != 0]
    few = draw_share(learned, 0.5, seed=0)
    assert len({case.subject for case in few}) == 1
    assert len({case.subject for case in learned}) == 2
    # Those that are not drawn are not even opened: they may be gone.
    for case in learned:
        if case not in few:
            (run.prepared / f"{case.id}.safetensors").unlink()
    train_segmentation(run, 0)
    assert load_model(run.model).spec.folds["0"]["key"]
    with pytest.raises((ConfigError, ValidationError)):
        parse_config({**values, "train": {"share": 0}}, path="test")


def test_a_fold_that_the_weights_have_seen_is_refused(done: Run, tmp_path: Path) -> None:
    run = create_run(_segment_config(done), tmp_path / "run").with_fold("1")
    prepare(run)
    with pytest.raises(ConfigError, match="none held out all cases that fold 1 holds out"):
        train_segmentation(run, 1)
    # Of another data set no fold has been seen; a folder of before says no more than numbers.
    spec = load_pretrained_spec(done.model)
    others = replace(spec, about={**spec.about, "data_set": "others"})
    assert source_fold(run, done.model, others, 1) == "0"
    assert set(spec.folds["0"]["held_out"]) == {case.id for case in done.cases if case.fold == 0}
    older = replace(spec, folds={"0": {"weights_sha256": ""}, "1": {"weights_sha256": ""}})
    assert source_fold(run, done.model, older, 1) == "1"


def test_settings_that_the_weights_contradict_are_refused(done: Run, tmp_path: Path) -> None:
    values = _segment_config(done).model_dump(mode="json")
    values["prepare"]["spacing_mm"] = [3, 3, 3]
    run = create_run(parse_config(values, path="test"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"prepare\.spacing_mm"):
        prepare(run)


def test_values_are_left_as_they_are_whatever_else_is_chosen(done: Run) -> None:
    values = done.config.model_dump(mode="json")
    values["train"]["augment"] = {"flip_axes": [2]}
    assert parse_config(values, path="test").train.augment.p_intensity == 0

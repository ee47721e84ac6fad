from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import yaml

from pipeline.config import RunConfig, dump_config, load_config, parse_config
from pipeline.segmentation.config import (
    AugmentSection,
    EvaluateSection,
    PredictSection,
    TrainSection,
)
from volumetric.augment import Augmentation
from volumetric.errors import ConfigError
from volumetric.inference.segment import segment_volume
from volumetric.learning import Training

PRESETS = sorted((Path(__file__).parents[1] / "pipeline/configs").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_sound_and_called_by_its_name(path: Path) -> None:
    config = load_config(path.stem)
    assert config == load_config(path)
    assert config.name == path.stem


def test_sections_name_what_the_library_takes() -> None:
    """A section's fields and the library's are one vocabulary, with one set of defaults."""
    training = {field.name for field in dataclasses.fields(Training)} - {"seed"}
    assert training <= set(TrainSection.model_fields)
    augmentation = {field.name: field.default for field in dataclasses.fields(Augmentation)}
    assert augmentation == {
        name: field.default for name, field in AugmentSection.model_fields.items()
    }
    for field in dataclasses.fields(Training):
        if field.default is not dataclasses.MISSING and field.name != "seed":
            assert TrainSection.model_fields[field.name].default == field.default, field.name
    assert {"overlap", "mirror_axes"} <= set(inspect.signature(segment_volume).parameters) & set(
        PredictSection.model_fields
    )
    assert set(EvaluateSection.model_fields) == {"tolerance_mm", "resamples", "confidence"}


def test_a_config_survives_its_own_dump(blob_config: RunConfig) -> None:
    assert parse_config(yaml.safe_load(dump_config(blob_config)), path="dump") == blob_config


def test_overrides_reach_their_field() -> None:
    overrides = {"train.epochs": "7", "train.learning_rate": "1e-3", "data.fold": "2"}
    config = load_config("hippocampus_cpu", overrides=overrides)
    assert (config.train.epochs, config.train.learning_rate, config.data.fold) == (7, 1e-3, 2)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("train.epohcs", 3, "train.epohcs: no such field"),
        ("train.epochs", 0, "train.epochs"),
        ("train.epochs", "many", "train.epochs"),
        ("train.minutes", -1, "train.minutes"),
        ("data.fold", -1, "data.fold"),
        ("data.fold", "some", "data.fold"),
        ("model.kind", "vnet", "model.kind"),
        ("model.weights", "imagenet", "only kind slice_unet takes weights"),
        ("model.kind", "swin_unetr", "swin_unetr takes no max_features"),
        ("prepare.spacing_mm", [1, 1], "prepare.spacing_mm"),
        ("prepare.spacing_mm", [1, 1, 0], "prepare.spacing_mm"),
        ("predict.overlap", 1.0, "predict.overlap"),
        ("device", "tpu", "device"),
        ("name", "../up", "name"),
        ("colour", "red", "colour: no such field"),
    ],
)
def test_a_bad_field_is_named(field: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("hippocampus_cpu", overrides={field: value})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"kind": "swin_unetr", "base_features": 16}, "multiples of 12"),
        ({"kind": "segresnet", "base_features": 12}, "multiples of 8"),
        ({"kind": "segresnet", "base_features": 32, "max_features": 32}, "at least twice"),
        ({"kind": "unetr", "max_features": 100}, "multiples of 64"),
        ({"kind": "unet", "backbone": "resnet18", "slice_axis": 1}, "backbone and slice_axis"),
        ({"kind": "slice_unet", "backbone": "vgg16"}, "model.backbone"),
    ],
)
def test_what_does_not_fit_the_network_is_named(model: dict[str, object], said: str) -> None:
    values = {"name": "n", "data": {"manifest": "hippocampus"}, "model": model}
    with pytest.raises(ConfigError, match=said):
        parse_config(values, path="test")


@pytest.mark.parametrize("text", ["", "just words", "a: [1, 2", "- a\n- b", "\x00"])
def test_a_file_that_is_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.path == str(path)


def test_a_missing_config_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match="hippocampus_cpu"):
        load_config("hippocampos")


@pytest.mark.parametrize(
    ("preset", "fields", "said"),
    [
        ("hippocampus", {"layer_decay": 0.8}, "train.layer_decay can only be chosen with weights"),
        (
            "clips",
            {"unfreeze_epochs": 2, "norm": "eval"},
            "epochs and train.norm can only be chosen with model.weights",
        ),
        ("clips", {"unfreeze_epochs": 31}, "unfreeze_epochs 31 needs 62 epochs"),
        ("clips", {"layer_decay": 1.5}, "train.layer_decay: input should be less than"),
        ("clips", {"focal_gamma": 3.0}, "focal_gamma needs loss focal"),
        ("clips", {"class_weights": 1.0, "adjust_logits": True}, "has nothing to adjust"),
    ],
)
def test_choices_that_make_no_sense_together(
    preset: str, fields: dict[str, object], said: str
) -> None:
    overrides = {f"train.{name}": value for name, value in fields.items()}
    with pytest.raises(ConfigError) as caught:
        load_config(preset, overrides=overrides)
    assert said in str(caught.value)
    assert "{" not in str(caught.value)  # says what is wrong without all that is set

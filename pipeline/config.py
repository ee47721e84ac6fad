"""What a person may choose about a run: one YAML, checked whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from volumetric.errors import ConfigError

_PRESETS = Path(__file__).parent / "configs"

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Spacing = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSection(_Section):
    """Which cases."""

    manifest: str
    """Name of a data set in data_manifests/, or path of its YAML."""
    root: Path | None = None
    """Folder its paths are relative to (--root); default: the manifest's own folder."""
    fold: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    """Fold to hold out (--fold), or every fold in turn."""


class PrepareSection(_Section):
    """How scans become network input. Unset values are chosen from the fingerprint."""

    spacing_mm: tuple[Spacing, Spacing, Spacing] | None = None
    """Target spacing along D (superior), H (anterior), W (right)."""
    intensity: Literal["zscore", "window"] | None = None
    """By each image's mean and spread, or clipped and scaled by the data set's foreground."""
    workers: Positive = 2
    """Cases prepared at a time."""


class ModelSection(_Section):
    """The network. Unset values are chosen from the fingerprint within the budget."""

    kind: Literal["unet", "residual_unet"] = "unet"
    budget_voxels: Positive = 4_194_304
    """Voxels of all patches of a batch together: what the device's memory allows."""
    base_features: Positive = 32
    """Channels of the finest stage; doubled from stage to stage."""
    max_features: Positive = 320
    max_stages: Annotated[int, Field(ge=2, le=8)] = 6
    patch_size: tuple[Positive, Positive, Positive] | None = None
    """Voxels along D, H, W after resampling; divisible by the network's strides."""


class AugmentSection(_Section):
    """See volumetric.augment.Augmentation."""

    p_spatial: Fraction = 0.3
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 12.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.2
    elastic: Annotated[float, Field(ge=0, le=0.2)] = 0.02
    flip_axes: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
    p_intensity: Annotated[float, Field(ge=0, le=0.5)] = 0.15


class TrainSection(_Section):
    """How the network learns; see volumetric.learning.Training."""

    epochs: Positive = 200
    steps_per_epoch: Positive = 250
    minutes: Annotated[float, Field(gt=0)] | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    decay: Literal["cosine", "poly"] = "cosine"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    clip_norm: Annotated[float, Field(gt=0)] = 12.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = True
    patience: Positive | None = None
    batch_size: Positive | None = None
    """Patches a step; unset: what the model's budget holds."""
    foreground: Fraction = 0.33
    """Share of patches centred on a labelled voxel."""
    cache_gb: Annotated[float, Field(ge=0)] = 4.0
    """Prepared cases are held on the device if they fit in this, else read patch by patch."""
    validation_cases: Positive = 16
    """At most so many held-out cases are looked at after each epoch (one patch each), for the
    curve and, if set, for patience."""
    augment: AugmentSection = AugmentSection()


class PredictSection(_Section):
    """How a volume is predicted."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mirror_axes: tuple[Literal[0, 1, 2], ...] = ()
    """Axes along which mirrored predictions are averaged; 2^n times the work."""
    keep_largest: bool | Literal["auto"] = "auto"
    """Keep a class's largest component: always, never, or where held-out Dice is surely better."""


class EvaluateSection(_Section):
    """How predictions are scored."""

    tolerance_mm: Annotated[float, Field(gt=0)] = 1.0
    """Tolerance of NSD."""
    resamples: Positive = 10_000
    """Bootstrap resamples behind each interval."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class RunConfig(_Section):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    data: DataSection
    prepare: PrepareSection = PrepareSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    predict: PredictSection = PredictSection()
    evaluate: EvaluateSection = EvaluateSection()


def load_config(path: Path | str, *, overrides: dict[str, Any] | None = None) -> RunConfig:
    """The configuration in a YAML file, or the preset of that name, with dotted overrides applied.

    Raises:
        ConfigError: no such file, no YAML, or a field that is misspelt or impossible; names
            every such field.
    """
    path = _find(Path(path))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            "unreadable-config", f"is no readable YAML ({reason})", "Correct it", path=path
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            "unreadable-config",
            "holds no fields",
            "Start from a file in pipeline/configs",
            path=path,
        )
    for field, value in (overrides or {}).items():
        _set(values, field, value, path)
    return parse_config(values, path=path)


def parse_config(values: dict[str, Any], *, path: Path | str) -> RunConfig:
    """The configuration in plain values; `path` is named in errors."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {_reason(problem)}"
            for problem in error.errors()
        )
        raise ConfigError(
            "bad-config",
            problems,
            "Correct these fields; pipeline/config.py lists all of them with their meaning",
            path=path,
        ) from error


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


def _find(path: Path) -> Path:
    preset = _PRESETS / f"{path}.yaml"
    if path.exists() or not preset.exists():
        if path.exists():
            return path
        names = ", ".join(sorted(file.stem for file in _PRESETS.glob("*.yaml")))
        raise ConfigError(
            "missing-config", "does not exist", f"Name a YAML file or a preset ({names})", path=path
        )
    return preset


def _set(values: dict[str, Any], field: str, value: Any, path: Path) -> None:
    *sections, last = field.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(
                "bad-config",
                f"{field}: {section} is no section",
                "Check the dotted name",
                path=path,
            )
    values[last] = value


def _reason(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "no such field"
    if problem["type"] == "string_pattern_mismatch" and problem["loc"] == ("device",):
        return f"should be auto, cpu, cuda or cuda:N, got {problem['input']!r}"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"

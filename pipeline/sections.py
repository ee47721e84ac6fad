"""Sections that every run has, whatever its task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A group of fields: frozen, nothing else allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSection(Section):
    """Which cases."""

    manifest: str
    """Name of a data set in data_manifests/, or path of its YAML."""
    root: Path | None = None
    """Folder its paths are relative to (--root); default: the manifest's own folder."""
    fold: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    """Fold to hold out (--fold), or every fold in turn."""


class LearningSection(Section):
    """How a network learns, whatever it learns; see volumetric.learning.Training."""

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


class IntervalSection(Section):
    """How intervals are made."""

    resamples: Positive = 10_000
    """Bootstrap resamples behind each interval."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class CommonConfig(Section):
    """What is said of every run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    data: DataSection

"""Sections that every run has, whatever its task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each stage, as a share of that of the one above it; the head has all."""
    unfreeze_epochs: Annotated[int, Field(ge=0)] = 0
    """The head learns alone for so many epochs; over as many again the stages join from the top."""
    norm: Literal["train", "eval"] = "train"
    """Eval: batch norms below the head keep the statistics that came with the weights."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    decay: Literal["cosine", "poly"] = "cosine"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    clip_norm: Annotated[float, Field(gt=0)] = 12.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = True
    patience: Positive | None = None

    @model_validator(mode="after")
    def _can_unfreeze(self) -> LearningSection:
        if 2 * self.unfreeze_epochs > self.epochs:
            raise ValueError(
                f"unfreeze_epochs {self.unfreeze_epochs} needs {2 * self.unfreeze_epochs} epochs, "
                "or some stages would never learn"
            )
        return self

    @property
    def transferring(self) -> str:
        """The choices made here that only weights learnt elsewhere give a meaning; maybe none."""
        chosen = {
            "train.layer_decay": self.layer_decay != 1,
            "train.unfreeze_epochs": self.unfreeze_epochs > 0,
            "train.norm": self.norm != "train",
        }
        return " and ".join(name for name, is_chosen in chosen.items() if is_chosen)

    def refuse_transferring(self, task: str) -> None:
        """Refuse choices that only weights learnt elsewhere give a meaning.

        Raises:
            ValueError: there are some; names them, and the task that starts from none.
        """
        if self.transferring:
            raise ValueError(
                f"{self.transferring} can only be chosen with weights learnt elsewhere, and "
                f"{task} starts from none"
            )


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

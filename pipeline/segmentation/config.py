"""What a person may choose about segmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.sections import (
    CommonConfig,
    Fraction,
    IntervalSection,
    LearningSection,
    Positive,
    Section,
)

Spacing = Annotated[float, Field(gt=0)]


class PrepareSection(Section):
    """How scans become network input. Unset values are chosen from the fingerprint."""

    spacing_mm: tuple[Spacing, Spacing, Spacing] | None = None
    """Target spacing along D (superior), H (anterior), W (right)."""
    intensity: Literal["zscore", "window"] | None = None
    """By each image's mean and spread, or clipped and scaled by the data set's foreground."""
    workers: Positive = 2
    """Cases prepared at a time."""


class ModelSection(Section):
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


class AugmentSection(Section):
    """See volumetric.augment.Augmentation."""

    p_spatial: Fraction = 0.3
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 12.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.2
    elastic: Annotated[float, Field(ge=0, le=0.2)] = 0.02
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    flip_axes: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
    p_intensity: Annotated[float, Field(ge=0, le=0.5)] = 0.15


class TrainSection(LearningSection):
    """How the network learns."""

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


class PredictSection(Section):
    """How a volume is predicted."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mirror_axes: tuple[Literal[0, 1, 2], ...] = ()
    """Axes along which mirrored predictions are averaged; 2^n times the work."""
    keep_largest: bool | Literal["auto"] = "auto"
    """Keep a class's largest component: always, never, or where held-out Dice is surely better."""


class EvaluateSection(IntervalSection):
    """How predictions are scored."""

    tolerance_mm: Annotated[float, Field(gt=0)] = 1.0
    """Tolerance of NSD."""


class SegmentConfig(CommonConfig):
    """A run that learns a class for every voxel."""

    task: Literal["segment"] = "segment"
    prepare: PrepareSection = PrepareSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    predict: PredictSection = PredictSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _can_learn(self) -> SegmentConfig:
        if self.train.transferring:
            raise ValueError(
                f"{self.train.transferring} can only be chosen with weights learnt elsewhere, and "
                "segmentation starts from none"
            )
        return self

"""What a person may choose about labelling whole scans."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.classification.config import (
    EvaluateSection,
    LabelSection,
    NetworkSection,
    refuse_impossible,
)
from pipeline.sections import CommonConfig, Fraction, Positive, Section
from volumetric.network_names import Aggregate, SliceBackbone, VolumeNetwork

Spacing = Annotated[float, Field(gt=0)]


class ScanPrepareSection(Section):
    """How scans become network input. Unset values are chosen from the fingerprint."""

    spacing_mm: tuple[Spacing, Spacing, Spacing] | None = None
    """Target spacing along D (superior), H (anterior), W (right)."""
    shape: tuple[Positive, Positive, Positive] | None = None
    """Voxels along D, H, W at that spacing: the box that the network sees, all of a scan."""
    budget_voxels: Positive = 2_097_152
    """Voxels of that box at most; a larger one is made coarser."""
    intensity: Literal["zscore", "window", "range"] | None = None
    """By each image's mean and spread; clipped and scaled by the data set's values; from 0 to 1."""
    workers: Positive = 2
    """Cases prepared at a time."""


class ScanModelSection(NetworkSection):
    """The network: a 3D one, or a 2D one that sees a scan slice by slice."""

    kind: Literal["plain_cnn3d"] | VolumeNetwork | SliceBackbone = "plain_cnn3d"
    """A 3D network, or a 2D one that sees slice by slice."""
    aggregate: Aggregate = "attention"
    slice_size: Annotated[int, Field(ge=32)] | None = None
    """Pixels along both sides of slices as a 2D network sees them; unset: as they are."""
    planes: Literal[1, 3] = 1
    """1: slices across D (axial); 3: across every axis, by the same 2D network."""
    neighbours: Annotated[int, Field(ge=0, le=8)] = 0
    """Slices before and after each that a 2D network sees with it, as channels (2.5D)."""
    checkpoint: bool = False
    """Compute a 2D network's activations twice in training, to hold a chunk of slices at a time."""

    @model_validator(mode="after")
    def _can_freeze(self) -> ScanModelSection:
        self.refuse_freezing(planes_1=self.planes == 1)
        return self


class ScanAugmentSection(Section):
    """See volumetric.augment.Augmentation.

    Left and right (axis 2) are mirrored only where the manifest says `symmetric: true`. With a
    frozen trunk: mirroring and mixup act on what it saw, the others not at all.
    """

    p_spatial: Fraction = 0.7
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.15
    elastic: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    flip_axes: tuple[Literal[0, 1, 2], ...] = (2,)
    p_intensity: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0


class ScanTrainSection(LabelSection):
    """How the network learns."""

    augment: ScanAugmentSection = ScanAugmentSection()


class ScanPredictSection(Section):
    """The test protocol."""

    mirror_axes: tuple[Literal[0, 1, 2], ...] = ()
    """Axes along which mirror images are averaged; 2 only where the manifest says `symmetric`."""


class ClassifyScansConfig(CommonConfig):
    """A run that learns a label for a whole scan."""

    task: Literal["classify_scans"]
    prepare: ScanPrepareSection = ScanPrepareSection()
    model: ScanModelSection = ScanModelSection()
    train: ScanTrainSection = ScanTrainSection()
    predict: ScanPredictSection = ScanPredictSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _can_learn(self) -> ClassifyScansConfig:
        refuse_impossible(self.train, weights=self.model.weights, trunk=self.model.trunk)
        return self

"""What a person may choose about telling objects apart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.sections import CommonConfig, IntervalSection, Positive, Section
from pipeline.segmentation.config import ModelSection, PrepareSection, TrainSection


class SplitSection(Section):
    """How a scan is looked at, and voxels become objects. Unset values are the objects' own."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of neighbouring windows."""
    apart_mm: Annotated[float, Field(gt=0)] | None = None
    """How far apart the middles of two objects are at least."""
    least_voxels: Positive | None = None
    """Smaller objects are dropped; voxels of the plan's spacing."""


class InstancesConfig(CommonConfig):
    """A run that learns to outline objects one by one."""

    task: Literal["instances"] = "instances"
    prepare: PrepareSection = PrepareSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    predict: SplitSection = SplitSection()
    evaluate: IntervalSection = IntervalSection()

    @model_validator(mode="after")
    def _can_learn(self) -> InstancesConfig:
        if self.model.kind not in ("unet", "residual_unet"):
            raise ValueError(f"model.kind {self.model.kind} cannot tell objects apart: use unet")
        if self.model.weights != "none":
            raise ValueError("telling objects apart starts from none: leave out model.weights")
        self.train.refuse_transferring("telling objects apart")
        return self

"""What a person may choose about detection."""

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
from pipeline.segmentation.config import PrepareSection
from volumetric.network_names import DetectorKind, SliceEncoder


class ModelSection(Section):
    """The network. Unset values are chosen from the fingerprint within the budget."""

    kind: DetectorKind = "anchor_free"
    """One network for the whole window at once, plain or with a residual encoder; Faster R-CNN on
    slices, whose boxes are linked to volumes; or a classifier of small windows slid over it, which
    is far slower and tells boxes of one size: a baseline."""
    budget_voxels: Positive = 4_194_304
    """Voxels of all patches of a batch together: what the device's memory allows."""
    base_features: Positive = 32
    """Channels of the finest stage, doubled from stage to stage; faster_rcnn's backbone has its
    own."""
    max_features: Positive = 320
    max_stages: Annotated[int, Field(ge=2, le=8)] = 5
    """Resolutions at most, the image's own among them."""
    n_levels: Annotated[int, Field(ge=1, le=6)] | None = None
    """Grids that are looked at, of the coarsest stages; unset: by the size of the objects."""
    head_features: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    """Channels of what looks at each grid, most of the work of a step; of the sliding
    classifier's first stage."""
    patch_size: tuple[Positive, Positive, Positive] | None = None
    """Voxels along D, H, W after resampling, such as the strides divide."""
    backbone: SliceEncoder | None = None
    """2D network that faster_rcnn's encoder is made of; unset: resnet18."""
    weights: str = "none"
    """What that starts from: `none`, `imagenet`, or a file in torchvision's format."""
    slice_axis: Literal[0, 1, 2] | None = None
    """What faster_rcnn's slices lie across (0 D, 1 H, 2 W); unset: the coarsest spacing."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ModelSection:
        of_slices = {
            "backbone": self.backbone is not None,
            "weights": self.weights != "none",
            "slice_axis": self.slice_axis is not None,
        }
        set_in_vain = [name for name, given in of_slices.items() if given]
        if self.kind != "faster_rcnn" and set_in_vain:
            raise ValueError(f"only kind faster_rcnn takes {' and '.join(set_in_vain)}")
        return self

    @property
    def encoder(self) -> str | None:
        """The 2D network that is used, if one is."""
        return (self.backbone or "resnet18") if self.kind == "faster_rcnn" else None


class AugmentSection(Section):
    """See volumetric.augment.Augmentation; boxes cannot follow an elastic deformation."""

    p_spatial: Fraction = 0.3
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 12.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.2
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    flip_axes: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
    p_intensity: Annotated[float, Field(ge=0, le=0.5)] = 0.15


class TrainSection(LearningSection):
    """How the network learns."""

    batch_size: Positive | None = None
    """Patches a step; unset: what the model's budget holds."""
    foreground: Fraction = 0.67
    """Share of patches that hold a point of an object in their inner half."""
    hard_negatives: Annotated[int, Field(ge=0)] = 0
    """Cells without an object that count, the surest, as a multiple of those with one; 0: all."""
    cache_gb: Annotated[float, Field(ge=0)] = 4.0
    """Prepared cases are held on the device if they fit in this, else read patch by patch."""
    validation_patches: Positive = 16
    """Patches of held-out cases that are looked at after each epoch, for the curve and, if set,
    for patience."""
    augment: AugmentSection = AugmentSection()


class PredictSection(Section):
    """How a scan is looked at."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of neighbouring windows."""
    mirror_axes: tuple[Literal[0, 1, 2], ...] = ()
    """Axes along which mirror images are looked at, too, and fused; 2^n times the work."""
    suppress: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Overlap (IoU) from which on the less sure of two boxes of a class is dropped."""
    least_score: Fraction = 0.05
    """Boxes less sure are not told."""


class DetectConfig(CommonConfig):
    """A run that learns to find objects."""

    task: Literal["detect"] = "detect"
    prepare: PrepareSection = PrepareSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    predict: PredictSection = PredictSection()
    evaluate: IntervalSection = IntervalSection()

    @model_validator(mode="after")
    def _can_learn(self) -> DetectConfig:
        if self.model.weights == "none":
            self.train.refuse_transferring("detection")
        if self.model.kind == "faster_rcnn" and self.train.hard_negatives:
            raise ValueError("faster_rcnn draws negatives itself: leave out train.hard_negatives")
        return self

"""What a person may choose about segmentation."""

from __future__ import annotations

from pathlib import Path
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
from volumetric.network_names import Segmenter, SliceEncoder, weights_path

_WIDTHS = {"swin_unetr": (48, 768), "unetr": (16, 768), "slice_unet": (16, 256)}
_PRETRAINED = ("unet", "residual_unet")
_MULTIPLE_OF_BASE = {"segresnet": 8, "swin_unetr": 12}

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
    """The network. Unset values are chosen from the fingerprint within the budget.

    Widths are channels of the finest stage, doubled from stage to stage, and of the widest. Unset
    they are those of the papers, which suit a GPU:

    - unet, residual_unet, attention_unet: 32 and 320.
    - segresnet: 32 and 320, beyond which there are no stages; base_features a multiple of 8.
    - swin_unetr: 48, a multiple of 12; its five stages double it, and max_features says nothing.
    - unetr: 16 in its decoder, 768 in its transformer, a multiple of 64.
    - slice_unet: 16 and 256 in its decoder; the encoder has its own.

    For two CPU cores: 16 and 128 in the first four, 12 in swin_unetr, 8 and 192 in unetr.
    """

    kind: Segmenter = "unet"
    """3D networks, and slice_unet, a 2D one that sees slice by slice."""
    budget_voxels: Positive = 4_194_304
    """Voxels of all patches of a batch together: what the device's memory allows."""
    base_features: Positive | None = None
    max_features: Positive | None = None
    max_stages: Annotated[int, Field(ge=2, le=8)] = 6
    """Resolutions at most; swin_unetr and unetr have as many as they have."""
    patch_size: tuple[Positive, Positive, Positive] | None = None
    """Voxels along D, H, W after resampling; such as the kind takes."""
    backbone: SliceEncoder | None = None
    """2D network that slice_unet's encoder is made of; unset: resnet18."""
    weights: str = "none"
    """What that encoder starts from: `none`, `imagenet`, or a file in torchvision's format. Of a
    unet or residual_unet the model folder of a run of task `pretrain`, which it is then made as."""
    slice_axis: Literal[0, 1, 2] | None = None
    """What slice_unet's slices lie across (0 D, 1 H, 2 W); unset: the coarsest spacing."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ModelSection:
        of_slices = {
            "backbone": self.backbone is not None,
            "weights": self.weights != "none" and self.kind not in _PRETRAINED,
            "slice_axis": self.slice_axis is not None,
        }
        set_in_vain = [name for name, given in of_slices.items() if given]
        if self.kind != "slice_unet" and set_in_vain:
            raise ValueError(f"only kind slice_unet takes {' and '.join(set_in_vain)}")
        if self.kind in _PRETRAINED and self.weights == "imagenet":
            raise ValueError(
                "only kind slice_unet takes weights of photographs; "
                f"{self.kind} takes the folder of a pretrained model, or none"
            )
        if self.kind == "swin_unetr" and self.max_features is not None:
            raise ValueError("swin_unetr takes no max_features: leave it out")
        base, largest = self.widths
        if base % _MULTIPLE_OF_BASE.get(self.kind, 1):
            factor = _MULTIPLE_OF_BASE[self.kind]
            raise ValueError(f"{self.kind} takes base_features that are multiples of {factor}")
        if self.kind == "unetr" and largest % 64:
            raise ValueError("unetr takes max_features that are multiples of 64")
        if self.kind == "segresnet" and largest < 2 * base:
            raise ValueError("segresnet takes max_features of at least twice base_features")
        return self

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of the finest stage and of the widest, set or the kind's own."""
        base, largest = _WIDTHS.get(self.kind, (32, 320))
        return self.base_features or base, self.max_features or largest

    @property
    def encoder(self) -> str | None:
        """The 2D network that is used, if one is."""
        return (self.backbone or "resnet18") if self.kind == "slice_unet" else None

    @property
    def pretrained(self) -> Path | None:
        """The model folder, learned without labels, that a U-Net starts from."""
        return weights_path(self.weights) if self.kind in _PRETRAINED else None


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
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the cases outside the fold to learn from: whole subjects, drawn by the seed."""
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
        self.train.refuse_transferring("segmentation")
        return self

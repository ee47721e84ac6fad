"""What a person may choose about learning without labels."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from pipeline.classification.config import AugmentSection as ClipAugmentSection
from pipeline.classification.config import ModelSection as ClipModelSection
from pipeline.classification.config import PrepareSection as ClipPrepareSection
from pipeline.sections import CommonConfig, IntervalSection, LearningSection, Positive
from pipeline.segmentation.config import AugmentSection, ModelSection, PrepareSection
from volumetric.network_names import SliceBackbone


class PlainAugmentSection(AugmentSection):
    """As of segmentation, but values are left as they are: they are what is to be found out."""

    p_intensity: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class HidingSection(LearningSection):
    """How the network learns: parts of scans are hidden from it, and it says what was there."""

    batch_size: Positive | None = None
    """Patches a step; unset: what the model's budget holds."""
    hidden: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Share of a patch that is hidden."""
    block: Positive = 8
    """Voxels along the finest axis of what is hidden at a time; as many mm along the others."""
    cache_gb: Annotated[float, Field(ge=0)] = 4.0
    """Prepared cases are held on the device if they fit in this, else read patch by patch."""
    validation_cases: Positive = 16
    """At most so many held-out cases are looked at after each epoch (one patch each)."""
    augment: PlainAugmentSection = PlainAugmentSection()


class PacingSection(LearningSection):
    """How the network learns: clips are shown faster or backwards, and it says how."""

    steps_per_epoch: Positive = 50
    batch_size: Positive = 16
    """Clips a step."""
    paces: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4)
    """Times `model.stride`, each as it is and backwards; a clip is shown those it is long for."""
    cache_gb: Annotated[float, Field(ge=0)] = 4.0
    """Prepared clips are held in memory if they fit in this, else read one by one."""
    validation_cases: Positive = 64
    """At most so many held-out clips are looked at after each epoch."""
    augment: ClipAugmentSection = ClipAugmentSection()


class PretrainClipsConfig(CommonConfig):
    """A run that learns from clips alone; its model folder is what others take as weights."""

    task: Literal["pretrain_clips"] = "pretrain_clips"
    prepare: ClipPrepareSection = ClipPrepareSection()
    model: ClipModelSection = ClipModelSection()
    train: PacingSection = PacingSection()
    evaluate: IntervalSection = IntervalSection()

    @model_validator(mode="after")
    def _can_learn(self) -> PretrainClipsConfig:
        if self.model.trunk == "frozen" or self.model.lag is not None:
            raise ValueError("pretraining shows every pace anew: leave out trunk and lag")
        if self.model.weights == "none" and self.train.transferring:
            raise ValueError(f"{self.train.transferring} can only be chosen with model.weights")
        orderless = ("mean", "max", "attention", "mean_max")
        sees_frames = self.model.kind in get_args(SliceBackbone)
        if self.model.frames < 2 or (
            sees_frames
            and self.model.input == "rgb"
            and not self.model.shift
            and self.model.aggregate in orderless
        ):
            raise ValueError(
                "the order of frames must be seen: use a 3D network, shift, input both, or "
                "aggregate conv3d, lstm or transformer, and 2 frames or more"
            )
        unused = ("jitter", "mixup_alpha", "cutmix_alpha")
        augment, usual = self.train.augment, ClipAugmentSection()
        changed = [name for name in unused if getattr(augment, name) != getattr(usual, name)]
        if changed:
            raise ValueError(f"paces are neither jittered nor mixed: leave out {changed[0]}")
        if len(set(self.train.paces)) < len(self.train.paces):
            raise ValueError("train.paces has one twice")
        return self


class PretrainConfig(CommonConfig):
    """A run that learns from scans alone; its model folder is what others take as weights."""

    task: Literal["pretrain"] = "pretrain"
    prepare: PrepareSection = PrepareSection()
    model: ModelSection = ModelSection()
    train: HidingSection = HidingSection()
    evaluate: IntervalSection = IntervalSection()

    @model_validator(mode="after")
    def _can_learn(self) -> PretrainConfig:
        if self.model.kind not in ("unet", "residual_unet"):
            raise ValueError(f"model.kind {self.model.kind} cannot be pretrained here: use unet")
        if self.model.weights != "none" or self.train.transferring:
            raise ValueError("pretraining starts from none: leave out weights and what needs them")
        return self

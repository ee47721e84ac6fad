"""What a person may choose about classification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from pipeline.sections import (
    CommonConfig,
    Fraction,
    IntervalSection,
    LearningSection,
    Positive,
    Section,
)
from volumetric.network_names import Aggregate, SliceBackbone, VolumeNetwork, weights_path

Side = Annotated[int, Field(ge=8)]

_GAMMA = 2.0


class PrepareSection(Section):
    """How clips become network input: decoded once, thinned out, made small, kept as bytes."""

    rate: Annotated[float, Field(gt=0)] | None = None
    """Frames a second; unset: the median of the data set's own, at most 15."""
    size: Annotated[int, Field(ge=8)] = 128
    """Pixels along the shorter side; larger than `model.size`, so that there is room to crop."""
    workers: Positive = 2
    """Cases prepared at a time."""


class NetworkSection(Section):
    """A network that labels clips or scans."""

    kind: str
    weights: str = "none"
    """`none`, `imagenet`, `kinetics`, a local file in torchvision's format, or the model folder of
    a run of this task or, of clips, of `pretrain_clips`: all but its head."""
    trunk: Literal["train", "frozen"] = "train"
    """Frozen: a 2D network keeps its weights, what it sees is kept on disk, heads alone learn."""
    aggregate: Aggregate = "mean"
    """How a 2D network's slices become one answer; see volumetric.models.heads.SliceHead."""

    def refuse_freezing(self, **others: bool) -> None:
        """Refuse a frozen trunk where something is not so that it needs; `others` besides.

        Raises:
            ValueError: something is not.
        """
        needs = {
            "a 2D network": self.kind in get_args(SliceBackbone),
            "weights": self.weights != "none",
            **others,
        }
        missing = [name.replace("_", " ") for name, met in needs.items() if not met]
        if self.trunk == "frozen" and missing:
            raise ValueError(f"trunk frozen needs {' and '.join(missing)}")

    @property
    def weights_folder(self) -> Path | None:
        """The model folder that `weights` names, if it is one."""
        path = weights_path(self.weights)
        return path if path is not None and path.is_dir() else None


class ModelSection(NetworkSection):
    """The network and what it sees of a clip."""

    kind: Literal["small_cnn3d"] | VolumeNetwork | SliceBackbone = "small_cnn3d"
    """A 3D network, or a 2D one that sees frame by frame."""
    input: Literal["rgb", "residual", "both"] = "rgb"
    """Frames, differences between neighbours, or both: as channels, or a 2D network's streams."""
    normalise: Literal["fixed", "clip"] = "fixed"
    """By the mean and spread of all photographs, or of each clip: for dark recordings."""
    frames: Positive = 16
    """Frames the network sees at a time."""
    stride: Positive = 1
    """Prepared frames from one of them to the next, where sampling is dense."""
    sampling: Literal["dense", "uniform", "segments"] = "uniform"
    """Neighbours from a random start; all of the clip, evenly; one of each of equal parts."""
    lag: Annotated[float, Field(gt=0)] | None = None
    """Differences are to a frame later by this part of a step; unset: to the next chosen one."""
    size: Side | tuple[Side, Side] = 112
    """Pixels along both sides of what the network sees; or its height and width."""
    fit: Literal["crop", "whole"] = "crop"
    """Cut a square out of the frame, or squeeze all of it into one."""
    shift: bool = False
    """Let a 2D network pass features from frame to frame (TSM)."""

    @model_validator(mode="after")
    def _can_show(self) -> ModelSection:
        if self.lag is not None and (self.sampling != "uniform" or self.input == "rgb"):
            raise ValueError("lag needs sampling uniform, and input residual or both")
        if isinstance(self.size, tuple) and self.fit != "whole":
            raise ValueError("a size of height and width needs fit whole: crops are square")
        return self

    @model_validator(mode="after")
    def _can_freeze(self) -> ModelSection:
        self.refuse_freezing(
            sampling_uniform=self.sampling == "uniform", shift_false=not self.shift
        )
        return self


class AugmentSection(Section):
    """See volumetric.clip_augment.ClipAugmentation.

    With a frozen trunk: both flips and both mixings act on what it saw, the others not at all.
    """

    scale: tuple[Fraction, Fraction] = (0.5, 1.0)
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    p_flip: Fraction = 0.5
    """0 where the manifest says that sides matter, whatever is set here."""
    p_flip_vertical: Fraction = 0.0
    """Turned upside down: for cameras that look straight down."""
    brightness: Fraction = 0.2
    contrast: Fraction = 0.2
    saturation: Fraction = 0.2
    p_erase: Fraction = 0.0
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0
    cutmix_alpha: Annotated[float, Field(ge=0)] = 0.0
    jitter: Fraction = 0.25
    """How much slower or faster clips run, or how much of their time is left out."""


class LabelSection(LearningSection):
    """How a network learns to label clips or scans."""

    steps_per_epoch: Positive = 50
    batch_size: Positive = 16
    """Cases a step."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the cases to learn from that is used: whole subjects, drawn by class and seed."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """For several labels a case: of each label. Focal: what is answered well counts for little."""
    focal_gamma: Annotated[float, Field(gt=0)] = _GAMMA
    """How little: see volumetric.losses.focal_loss."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    class_weights: Fraction = 0.0
    """0: drawn cases weigh the same in the loss; 1: classes do; between: as the power of how often
    they are drawn. What balance makes up for is not made up for twice."""
    balance: Fraction = 0.5
    """0: cases are drawn evenly; 1: classes are; between: as the power of their size."""
    adjust_logits: bool = False
    """Learn above the frequencies that classes are drawn with: rare ones are named more often."""
    members: Positive = 1
    """Heads on a frozen trunk that learn one after the other; their answers are averaged."""
    cache_gb: Annotated[float, Field(ge=0)] = 4.0
    """Prepared cases are held in memory if they fit in this, else read one by one."""

    @model_validator(mode="after")
    def _can_lose(self) -> LabelSection:
        if self.focal_gamma != _GAMMA and self.loss != "focal":
            raise ValueError("focal_gamma needs loss focal")
        if self.adjust_logits and self.class_weights == 1:
            raise ValueError("adjust_logits has nothing to adjust at class_weights 1")
        return self


class TrainSection(LabelSection):
    """How the network learns."""

    augment: AugmentSection = AugmentSection()


class PredictSection(Section):
    """The test protocol: views along time times crops of each frame, averaged."""

    views: Positive = 4
    crops: Literal[1, 3] = 1
    mirror_axes: tuple[Literal[1, 2], ...] = ()
    """Whose mirror images are averaged, too: 1 upside down, 2 left for right."""


class EvaluateSection(IntervalSection):
    """How predictions are scored."""


class ClassifyConfig(CommonConfig):
    """A run that learns a label for a whole clip."""

    task: Literal["classify"]
    prepare: PrepareSection = PrepareSection()
    model: ModelSection = ModelSection()
    train: TrainSection = TrainSection()
    predict: PredictSection = PredictSection()
    evaluate: EvaluateSection = EvaluateSection()

    @model_validator(mode="after")
    def _can_learn(self) -> ClassifyConfig:
        refuse_impossible(self.train, weights=self.model.weights, trunk=self.model.trunk)
        return self


def refuse_impossible(train: LabelSection, *, weights: str, trunk: str) -> None:
    """Refuse settings of training that the model gives no occasion for.

    Raises:
        ValueError: there are some.
    """
    if train.members > 1 and trunk != "frozen":
        raise ValueError("train.members above 1 needs model.trunk frozen")
    needs = {"model.weights": weights != "none", "model.trunk train": trunk == "train"}
    missing = " and ".join(name for name, met in needs.items() if not met)
    if train.transferring and missing:
        raise ValueError(f"{train.transferring} can only be chosen with {missing}")

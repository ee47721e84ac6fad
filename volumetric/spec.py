"""Specs: what `model.json` says of a network; `volumetric.networks` builds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from volumetric.clip_input import ClipInput
from volumetric.clips import Sampling
from volumetric.models.slices import Planes
from volumetric.network_names import Aggregate, DetectorKind, Segmenter

Triple = tuple[int, int, int]
Fit = Literal["crop", "whole"]
Normalise = Literal["fixed", "clip"]


@dataclass(frozen=True)
class ModelSpec:
    """What `model.json` says of a network that segments.

    Attributes:
        kind: architecture.
        n_channels: channels of the image.
        classes: name of each label but background.
        features: channels of each stage; of unetr, of its decoder and of its transformer.
        strides: stride of each stage.
        kernels: kernel of each stage; none where the kind has its own.
        patch_size: window in voxels.
        spacing_mm: spacing the network works at.
        intensity: as `volumetric.preprocess.prepare` takes it.
        overlap: of sliding windows.
        backbone: 2D network that slice_unet's encoder is made of.
        slice_axis: what its slices lie across.
        mirror_axes: averaged in prediction.
        keep_largest: labels of which only the largest component is kept.
        splits: whether it tells objects of its one class apart, see `volumetric.splitting`.
        apart_mm: how far apart middles of objects are at least.
        least_voxels: smaller objects are dropped, at the network's spacing.
        fingerprint: of the training set.
        about: provenance: names, versions.
        folds: for each fold the hash of its weights, and "key", what they depended on.
    """

    kind: Segmenter
    n_channels: int
    classes: Mapping[int, str]
    features: Sequence[int]
    strides: Sequence[Triple]
    kernels: Sequence[Triple]
    patch_size: Triple
    spacing_mm: tuple[float, float, float]
    intensity: Mapping[str, Any]
    backbone: str | None = None
    slice_axis: int = 0
    overlap: float = 0.5
    mirror_axes: Sequence[int] = ()
    keep_largest: Sequence[int] = ()
    splits: bool = False
    apart_mm: float = 0.0
    least_voxels: int = 1
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    folds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassifierSpec:
    """What `model.json` says of a network that labels whole clips.

    Attributes:
        kind: `small_cnn3d`, another 3D network, or a 2D backbone.
        classes: names, in the order of the network's answers.
        multi_label: whether each class is answered for itself.
        input: frames, differences between neighbours, or both: as channels of a 3D network, as
            two streams through a 2D one.
        frames: frames the network sees at a time.
        stride: prepared frames from one of them to the next, where sampling is dense.
        sampling: how they are chosen.
        lag: differences are to a frame later by this part of a step; None: to the next chosen one.
        size: pixels along both sides of what the network sees, or its height and width.
        fit: whether a square is cut out of the frame, or all of it is squeezed into one.
        aggregate: how a 2D network's frames become one answer.
        members: heads of a 2D network, whose answers are averaged.
        shift: whether a 2D network passes features from frame to frame (TSM).
        rate: prepared frames a second.
        short_side: pixels along the shorter side of prepared frames.
        normalise: by `mean` and `std`, or each clip by its own, colour by colour.
        mean: of each colour, from 0 to 1, taken off.
        std: of each colour, divided by.
        views: parts of a clip that are averaged in prediction.
        crops: of each frame, likewise.
        mirror_axes: 1 upside down, 2 left for right: whose mirror images are averaged likewise.
        pretrained: whether it learned without labels: its classes are paces, of use to nobody.
        fingerprint: of the training set.
        about: provenance: names, versions.
        folds: for each fold the hash of its weights, and "key", what they depended on.
    """

    kind: str
    classes: Sequence[str]
    multi_label: bool
    input: ClipInput
    frames: int
    stride: int
    sampling: Sampling
    size: int | Sequence[int]
    fit: Fit
    aggregate: Aggregate
    shift: bool
    rate: float
    short_side: int
    mean: Sequence[float]
    std: Sequence[float]
    normalise: Normalise = "fixed"
    lag: float | None = None
    members: int = 1
    views: int = 1
    crops: int = 1
    mirror_axes: Sequence[int] = ()
    pretrained: bool = False
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    folds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of what the network sees, in pixels."""
        height, width = (self.size,) * 2 if isinstance(self.size, int) else self.size
        return height, width


@dataclass(frozen=True)
class ScanClassifierSpec:
    """What `model.json` says of a network that labels whole scans.

    Attributes:
        kind: `plain_cnn3d`, another 3D network, or a 2D backbone.
        classes: names, in the order of the network's answers.
        multi_label: whether each class is answered for itself.
        n_channels: channels of the image.
        shape: voxels along (D, H, W) that the network sees: all of a prepared scan.
        spacing_mm: spacing it works at.
        intensity: as `volumetric.preprocess.prepare` takes it.
        slice_size: pixels along both sides of slices as a 2D network sees them; None as they are.
        aggregate: how a 2D network's slices become one answer.
        planes: 1: slices along D; 3: along every axis.
        neighbours: slices before and after each that a 2D network sees with it, as channels.
        members: heads of a 2D network, whose answers are averaged.
        mean: taken off prepared values, before a network that has seen photographs.
        std: divided by.
        mirror_axes: whose mirror images are averaged in prediction.
        fingerprint: of the training set.
        about: provenance: names, versions.
        folds: for each fold the hash of its weights, and "key", what they depended on.
    """

    kind: str
    classes: Sequence[str]
    multi_label: bool
    n_channels: int
    shape: Triple
    spacing_mm: tuple[float, float, float]
    intensity: Mapping[str, Any]
    slice_size: int | None
    aggregate: Aggregate
    planes: Planes = 1
    neighbours: int = 0
    members: int = 1
    mean: float = 0.0
    std: float = 1.0
    mirror_axes: Sequence[int] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    folds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class DetectorSpec:
    """What `model.json` says of a network that finds objects.

    Attributes:
        kind: architecture.
        n_channels: channels of the image.
        classes: names, in the order of the network's answers.
        features: channels of each stage of the encoder.
        strides: stride of each stage.
        kernels: kernel of each stage.
        n_levels: grids that are looked at, of the coarsest stages.
        width: channels of what looks at them; of the sliding classifier's first stage.
        backbone: 2D network of faster_rcnn, which sees slices; None of others.
        slice_axis: what its slices lie across.
        box_size: voxels of the box that the sliding classifier tells; None of others.
        patch_size: window in voxels.
        spacing_mm: spacing the network works at.
        intensity: as `volumetric.preprocess.prepare` takes it.
        overlap: of sliding windows.
        suppress: overlap from which on the less sure of two boxes is dropped.
        least_score: below which a box is not told.
        mirror_axes: whose mirror images are fused in prediction.
        fingerprint: of the training set.
        about: provenance: names, versions.
        folds: for each fold the hash of its weights, and "key", what they depended on.
    """

    kind: DetectorKind
    n_channels: int
    classes: Sequence[str]
    features: Sequence[int]
    strides: Sequence[Triple]
    kernels: Sequence[Triple]
    n_levels: int
    width: int
    patch_size: Triple
    spacing_mm: tuple[float, float, float]
    intensity: Mapping[str, Any]
    box_size: Sequence[float] | None = None
    backbone: str | None = None
    slice_axis: int = 0
    overlap: float = 0.5
    suppress: float = 0.2
    least_score: float = 0.05
    mirror_axes: Sequence[int] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    folds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class PretrainedSpec:
    """What `model.json` says of a network that learned without labels.

    Attributes:
        kind: architecture.
        n_channels: channels of the image.
        features: channels of each stage.
        strides: stride of each stage.
        kernels: kernel of each stage.
        patch_size: window in voxels.
        spacing_mm: spacing the network works at.
        intensity: as `volumetric.preprocess.prepare` takes it.
        fingerprint: of the training set.
        about: provenance: names, versions.
        folds: for each fold the hash of its weights, and "key", what they depended on.
    """

    kind: Segmenter
    n_channels: int
    features: Sequence[int]
    strides: Sequence[Triple]
    kernels: Sequence[Triple]
    patch_size: Triple
    spacing_mm: tuple[float, float, float]
    intensity: Mapping[str, Any]
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    folds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


AnySpec = ModelSpec | ClassifierSpec | ScanClassifierSpec | DetectorSpec | PretrainedSpec

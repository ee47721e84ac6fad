"""How a run's clips and scans are changed while it learns."""

from __future__ import annotations

from dataclasses import replace

from pipeline.classification.scan_config import ClassifyScansConfig
from pipeline.run import ClassifyRun, ClassifyScansRun, LabelRun, PretrainClipsRun
from volumetric.augment import Augmentation
from volumetric.clip_augment import ClipAugmentation
from volumetric.errors import ConfigError

_SIDES = 2  # the axis from left to right


def choose_augmentation(run: ClassifyRun | PretrainClipsRun) -> ClipAugmentation:
    """What the configuration says; sides are not exchanged where the manifest says they matter."""
    settings = ClipAugmentation(**run.config.train.augment.model_dump())
    return replace(settings, p_flip=0.0) if run.data_set.sides_matter else settings


def choose_scan_augmentation(run: ClassifyScansRun) -> Augmentation:
    """What the configuration says; sides are exchanged only where the manifest says they may be."""
    section = run.config.train.augment
    axes = tuple(a for a in section.flip_axes if a != _SIDES or run.data_set.symmetric)
    return Augmentation(**section.model_dump(exclude={"mixup_alpha", "flip_axes"}), flip_axes=axes)


def mirror_chances(run: LabelRun) -> dict[int, float]:
    """How often training mirrors along each axis (0 D, 1 H, 2 W), of those it does at all."""
    if isinstance(run.config, ClassifyScansConfig):
        scans: ClassifyScansRun = run  # type: ignore[assignment] # its configuration says so
        return dict.fromkeys(choose_scan_augmentation(scans).flip_axes, 0.5)
    clips: ClassifyRun = run  # type: ignore[assignment]
    settings = choose_augmentation(clips)
    chances = {1: settings.p_flip_vertical, 2: settings.p_flip}
    return {axis: chance for axis, chance in chances.items() if chance > 0}


def tested_axes(run: LabelRun) -> list[int]:
    """Whose mirror images are averaged in prediction (0 D, 1 H, 2 W).

    Raises:
        ConfigError: left for right is among them, where the manifest says that sides matter.
    """
    of_scans = isinstance(run.config, ClassifyScansConfig)
    may_swap = run.data_set.symmetric if of_scans else not run.data_set.sides_matter
    axes: list[int] = list(run.config.predict.mirror_axes)
    if _SIDES in axes and not may_swap:
        raise ConfigError(
            "asymmetric",
            "predict.mirror_axes has 2, left for right, which the manifest does not allow",
            f"Leave 2 out, or say `{'symmetric: true' if of_scans else 'sides_matter: false'}` "
            "in the manifest if that is so",
            path=run.manifest,
        )
    return axes


def choose_mixing(run: LabelRun) -> ClipAugmentation:
    """How two cases are mixed into one."""
    augment = run.config.train.augment.model_dump(include={"mixup_alpha", "cutmix_alpha"})
    return ClipAugmentation(**augment)

"""How a run's clips are changed while it learns."""

from __future__ import annotations

from dataclasses import replace

from pipeline.run import ClassifyRun
from volumetric.clip_augment import ClipAugmentation


def choose_augmentation(run: ClassifyRun) -> ClipAugmentation:
    """What the configuration says; nothing is mirrored where the manifest says sides matter."""
    settings = ClipAugmentation(**run.config.train.augment.model_dump())
    return replace(settings, p_flip=0.0) if run.data_set.sides_matter else settings

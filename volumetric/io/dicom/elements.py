"""DICOM elements: what data sets say, by keyword, and which functional groups are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydicom import Dataset

Said = Mapping[str | int, Any]
"""Values by keyword, or by tag where that is private; nothing that is empty."""

# InstanceNumber, SliceThickness, SpacingBetweenSlices: they place nothing.
_PROVE_NOTHING = frozenset({0x00200013, 0x00180050, 0x00180088})
# Functional groups (PS3.3 C.7.6.16.2, C.8.13.5, C.8.15.3) that are looked into.
_MACROS = (
    "CTImageFrameTypeSequence",
    "CTReconstructionSequence",
    "CardiacSynchronizationSequence",
    "DiffusionGradientDirectionSequence",
    "FrameContentSequence",
    "MRDiffusionSequence",
    "MREchoSequence",
    "MRImageFrameTypeSequence",
    "MRModifierSequence",
    "PETFrameTypeSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "TemporalPositionSequence",
)


def read_elements(parts: Sequence[Dataset]) -> dict[str | int, Any]:
    """What the last of several data sets to say anything of a thing says of it, by keyword."""
    said: dict[str | int, Any] = {}
    for part in parts:
        for tag in part.keys():  # noqa: SIM118 (elements would be converted, sound or not)
            if tag in _PROVE_NOTHING and not _is_sound(part, tag):
                continue
            element = part[tag]
            if element.value is not None and element.value != "":
                said[element.keyword or int(tag)] = element.value
    return said


def _is_sound(dataset: Dataset, tag: int) -> bool:
    """Whether a number can be read; one that proves nothing costs nothing if it is malformed."""
    try:
        return dataset[tag].value is not None
    except (TypeError, ValueError):
        return False


def list_macros(groups: Dataset, *, levels: int = 2) -> list[Dataset]:
    """The items of the macros that place a frame or tell it apart, flat; they lie two deep.

    Only these: private sequences, as Philips writes them, hold a second geometry of their own
    whose positions are those of corners.
    """
    items = [groups[keyword].value[0] for keyword in _MACROS if groups.get(keyword)]
    if levels > 1:
        items += [inner for item in items for inner in list_macros(item, levels=levels - 1)]
    return items

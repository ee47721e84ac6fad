"""DICOM labels: what may tell two images apart that lie in one place, or should not be stacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

# What may tell two images at one place apart, the likeliest first: what makes contrast, then
# what merely follows time (and so differs between the slices of a single volume as well).
CONTRASTS = (
    "EchoTime",
    "EffectiveEchoTime",
    "EchoNumbers",
    "InversionTime",
    "DiffusionBValue",
    "ComplexImageComponent",
    "ConvolutionKernel",
    "ImageType",
    "FlipAngle",
    "KVP",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
)
_OTHERS = (
    "DiffusionGradientOrientation",
    "SequenceName",
    "StackID",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "AcquisitionNumber",
    "FrameReferenceTime",
    "AcquisitionTime",
    "ContentTime",
)
LABELS = CONTRASTS + _OTHERS
# Dimensions that are the place itself.
_PLACES = frozenset({"ImagePositionPatient", "InStackPositionNumber", "ImageOrientationPatient"})
# What separates one choice from the next.
_RESERVED = str.maketrans(";[]", "___")
_COMPONENTS = {
    "M": "MAGNITUDE",
    "P": "PHASE",
    "R": "REAL",
    "I": "IMAGINARY",
    "MAGNITUDE": "MAGNITUDE",
    "PHASE": "PHASE",
    "REAL": "REAL",
    "IMAGINARY": "IMAGINARY",
}
# Words of ImageType that say what the values are; the others tell of filters and of the scanner.
_KINDS = frozenset(
    {
        *("W", "F", "IP", "OP", "WATER", "FAT", "IN_PHASE", "OPP_PHASE", "OUT_PHASE"),
        *("MIP", "MINIP", "MPR", "AVERAGE", "SUBTRACTION", "ADC", "FA", "TRACEW", "CBF", "CBV"),
        *("MTT", "TTP", "TMAX", "PERFUSION", "VELOCITY", "T1", "T2", "T2_STAR", "R2_STAR"),
        *_COMPONENTS,
    }
)


def image_kind(image_type: Sequence[str]) -> tuple[str, ...]:
    """What of an ImageType two slices of one volume must share."""
    return (*image_type[:1], *sorted(_KINDS.intersection(image_type[2:])))


def find_labels(get: Callable[[str], Any], image_type: tuple[str, ...]) -> dict[str, str]:
    """What the keywords of `LABELS` say of an image, those left out that say nothing."""
    labels = {keyword: _text(get(keyword)) for keyword in LABELS}
    labels["ImageType"] = _text(image_type)
    component = next((_COMPONENTS[word] for word in image_type[2:] if word in _COMPONENTS), "")
    labels["ComplexImageComponent"] = labels["ComplexImageComponent"] or component
    return {keyword: value for keyword, value in labels.items() if value}


def read_dimensions(dataset: Dataset) -> list[str]:
    """What each dimension index counts, by keyword; "Dimension2" where the second does not say."""
    pointers = [
        item.get("DimensionIndexPointer") for item in dataset.get("DimensionIndexSequence") or []
    ]
    return [
        f"Dimension{number}" if pointer is None else keyword_for_tag(pointer) or str(pointer)
        for number, pointer in enumerate(pointers, 1)
    ]


def dimension_labels(
    dimensions: Sequence[str], groups: Dataset, labels: Mapping[str, str]
) -> dict[str, str]:
    """Indices along dimensions that are neither the place nor known by their value already."""
    content = groups.get("FrameContentSequence") or [Dataset()]
    indices = content[0].get("DimensionIndexValues")
    values = [indices] if isinstance(indices, int) else list(indices or [])
    return {
        keyword: str(value)
        for keyword, value in zip(dimensions, values, strict=False)
        if keyword not in labels and keyword not in _PLACES
    }


def _text(value: Any) -> str:
    """A label as written in a choice: numbers short, several values apart by a backslash."""
    parts = [value] if isinstance(value, str | bytes) or not _is_several(value) else list(value)
    return (
        "\\".join(
            f"{float(part):.6g}" if isinstance(part, float) else str(part)
            for part in parts
            if part is not None
        )
        .translate(_RESERVED)
        .strip()
    )


def _is_several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)

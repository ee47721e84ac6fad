"""DICOM mixtures: slices of one series that do not belong into one stack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volumetric.errors import AmbiguousSeriesError, GeometryError
from volumetric.findings import Finding
from volumetric.io.dicom.choices import CHOOSE, LISTED, Prefix, ambiguous, join_lines, list_lines
from volumetric.io.dicom.groups import group_slices
from volumetric.io.dicom.labels import CONTRASTS, image_kind
from volumetric.io.dicom.slices import Slice

PLANES = {
    "Size": ("mixed-size", "sizes (columns x rows)"),
    "ImageOrientationPatient": ("mixed-orientation", "orientations"),
    "PixelSpacing": ("mixed-pixel-spacing", "pixel spacings (mm)"),
    "FrameOfReferenceUID": ("mixed-frame-of-reference", "frames of reference"),
    "StudyInstanceUID": ("mixed-study", "studies"),
}
"""What all slices of one stack share: keyword to the code of a refusal, and its word for it."""

# No scanner varies these from slice to slice of one volume, however few there are.
_NEVER_MIXED = frozenset(
    {"EchoTime", "EffectiveEchoTime", "EchoNumbers", "DiffusionBValue", "ComplexImageComponent"}
)


def check_plane(path: Path, slices: Sequence[Slice], prefix: Prefix) -> None:
    """Refuse slices that do not share size, orientation, pixel spacing and frame of reference.

    Raises:
        GeometryError: "no-geometry", or one of the codes of `PLANES`.
    """
    for one in slices:
        spacing = one.pixel_spacing_mm
        if not (one.position and one.orientation and spacing and min(spacing) > 0):
            raise GeometryError(
                "no-geometry",
                f"position {one.position}, orientation {one.orientation}, pixel spacing {spacing}",
                "Export it with its geometry; a picture without one is no scan",
                path=one.path,
            )
    for keyword, (code, what) in PLANES.items():
        groups = group_slices(slices, keyword)
        if len(groups) > 1:
            lines = list_lines(groups, prefix)
            raise GeometryError(
                code,
                f"its slices have {len(groups)} {what}: {join_lines(lines)}",
                f"{CHOOSE}, or keep one a folder",
                path=path,
                choices=tuple(choice for choice, _ in lines),
            )


def check_contrast(path: Path, slices: Sequence[Slice], prefix: Prefix) -> list[Finding]:
    """Doubts where a contrast differs in every slice of a stack.

    Raises:
        AmbiguousSeriesError: two kinds of values in one stack ("mixed-units", "mixed-contrast"),
            even where every slice has its own place.
    """
    kinds = {
        (one.modality, one.unit, one.rescale is not None, one.encoding.photometric)
        + ((one.encoding.bits, one.encoding.signed) if _is_inverted(one) else ())
        for one in slices
    }
    if len(kinds) > 1:
        raise AmbiguousSeriesError(
            "mixed-units",
            "its slices do not agree on (modality, unit, whether values are rescaled, grey scale): "
            f"{sorted(map(str, kinds))[:LISTED]}",
            "Export the series again, in one unit",
            path=path,
        )
    varying = []
    for keyword in CONTRASTS:
        groups = group_slices(slices, keyword)
        if keyword == "ImageType" and len({image_kind(one.image_type) for one in slices}) == 1:
            continue
        if len(groups) == len(slices) > 1 and keyword not in _NEVER_MIXED:
            varying.append(keyword)  # of each slice its own: no volumes that were mixed
        elif len(groups) > 1:
            raise ambiguous(path, "mixed-contrast", groups, prefix)
    return [
        Finding(
            "contrast-varies",
            "warning",
            f"{keyword} differs in every slice",
            "Check that one volume may be made of them",
            str(path),
        )
        for keyword in varying
    ]


def _is_inverted(one: Slice) -> bool:
    return one.encoding.photometric == "MONOCHROME1"

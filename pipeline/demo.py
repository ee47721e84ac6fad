"""The demo's data: one averaged brain that ships with nilearn, cut into cases by region.

The MNI152 2009 symmetric template (T1, grey- and white-matter probability, 1 mm) is cut at the
midline and then into boxes. Boxes of the left side train, boxes of the right are held out.
"""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml

from volumetric.cases import Case, write_cases
from volumetric.errors import UnreadableFileError
from volumetric.io import read_volume, write_volume
from volumetric.preprocess import crop, orient
from volumetric.volume import Volume

_TEMPLATE = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_CUTS = (2, 3)  # boxes along D (foot to head) and H (back to front), on each side
_MARGIN = 8  # voxels around the brain

_ABOUT = {
    "name": "demo",
    "description": "MNI152 2009a symmetric T1 template cut into boxes; one averaged brain.",
    "licence": "Copyright 1993-2009 Louis Collins, McGill University; free use with this notice",
    "citation": "V. Fonov et al., NeuroImage 54:313-327, 2011",
    "modality": "MR",
    "classes": {1: "grey matter", 2: "white matter"},
    "cases": "demo.csv",
}


def write_demo_data(folder: Path) -> Path:
    """Write the demo's cases into `folder`; return the path of the manifest's YAML.

    Raises:
        UnreadableFileError: nilearn, which carries the template, is not installed.
    """
    manifest = folder / "demo.yaml"
    t1, grey, white = (orient(read_volume(_template(name))) for name in ("t1", "gm", "wm"))
    labels = _labels(grey, white)
    cases = []
    for side, d, h in itertools.product(("left", "right"), range(_CUTS[0]), range(_CUTS[1])):
        start, size = _box(labels, side, d, h)
        name = f"{side}-{['low', 'high'][d]}-{['back', 'middle', 'front'][h]}"
        image, mask = folder / "images" / f"{name}.nii.gz", folder / "masks" / f"{name}.nii.gz"
        write_volume(crop(t1, start, size), image)
        write_volume(crop(labels, start, size), mask)
        # Fold 0 is held out: the right side. The left is in fold 1 and learned from. All are one
        # brain; each region counts as a subject, so intervals speak of regions, not of people.
        cases.append(Case(name, name, 0 if side == "right" else 1, image, mask))
    write_cases(folder / "demo.csv", cases, root=folder)
    manifest.write_text(yaml.safe_dump(_ABOUT, sort_keys=False), encoding="utf-8")
    return manifest


def _labels(grey: Volume, white: Volume) -> Volume:
    """1 where grey matter is likelier than not and than white, 2 likewise for white."""
    g, w = (volume.data.to(torch.float32) / volume.data.max() for volume in (grey, white))
    labels = torch.where((g > 0.5) & (g >= w), 1, torch.where(w > 0.5, 2, 0))
    return grey.with_data(labels.to(torch.uint8))


def _box(
    labels: Volume, side: str, d: int, h: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and size of one region, in voxels of the canonical template."""
    found = (labels.data[0] > 0).nonzero()
    low = found.amin(0) - _MARGIN
    extent = found.amax(0) + _MARGIN + 1 - low
    middle = round(-float(labels.affine[0, 3]) / labels.spacing[2])  # voxel where x = 0
    depth, height = int(extent[0]) // _CUTS[0], int(extent[1]) // _CUTS[1]
    right = int(low[2] + extent[2]) - middle
    width = right if side == "right" else middle - int(low[2])
    start = int(low[0]) + d * depth, int(low[1]) + h * height
    return (*start, middle if side == "right" else int(low[2])), (depth, height, width)


def _template(name: str) -> Path:
    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise UnreadableFileError(
            "no-template",
            "the demo's scan ships with nilearn, which is not installed",
            "pip install 'volumetric[demo]'",
        )
    return Path(package.origin).parent / _TEMPLATE.format(name)

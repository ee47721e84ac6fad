"""Synthetic nodules planted in a real lung: how many are found, and at how many false alarms.

    .venv/bin/python benchmarks/nodules.py --scan LIDC-IDRI-0001 --out DATA
    volumetric run nodules_cpu --set data.manifest=DATA/nodules.yaml --out runs/nodules

The first writes the cases. The right lung of one chest CT is what is learned from, the left what is
held out, but for what lies within 15 mm of its real nodule: regions that share no voxel. A case is
one planting of a region; all are one patient, so that intervals speak of plantings and not of
people. Of each nodule are drawn, evenly unless said otherwise:

- diameter: 5 to 20 mm, evenly in its logarithm; each axis times .8 to 1.25, turned at random
- surface: lobes of up to 20 % of the radius; edge blurred over .5 to 1.2 mm
- density: of seven in ten -100 to 80 HU (solid), of the others -650 to -350 HU (ground glass)
- texture: smooth noise of 10 to 50 HU
- place: anywhere with its middle in the lung, vessels and walls beside it kept
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from volumetric import Case, Volume, crop, orient, read_volume, write_cases, write_volume

_AIR_HU = -400
_REAL_MM = 15.0  # kept from the real nodule
_MARGIN_MM = 12.0  # around a lung
_FINER = 4  # samples along a slice's thickness
_LEAST = 12  # voxels of a nodule
_ABOUT = {
    "name": "nodules",
    "description": "Drawn nodules in the lungs of LIDC-IDRI-0001: right learned, left held out.",
    "licence": "CC BY 3.0 (the scan: Armato et al., The Cancer Imaging Archive)",
    "citation": "S. G. Armato et al., Med Phys 38:915-931, 2011",
    "modality": "CT",
    "classes": {1: "nodule"},
    "cases": "nodules.csv",
}

Voxels = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """A part of the scan, and where in it the lung is."""

    name: str
    image: Volume
    lung: Mask


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", type=Path, required=True, help="folder of its DICOM files")
    parser.add_argument("--nodule", type=Path, help="mask of readers (default: beside the scan)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--learned", type=int, default=64, help="plantings of the right lung")
    parser.add_argument("--held-out", type=int, default=20, help="of each part of the left")
    chosen = parser.parse_args()
    nodule = chosen.nodule or chosen.scan.with_name(f"{chosen.scan.name}_reader_count.nii.gz")
    scan, real = orient(read_volume(chosen.scan)), orient(read_volume(nodule))
    right, *left = find_regions(scan, real.data[0].numpy() >= 2)
    rng = np.random.default_rng(0)
    cases = []
    for region, fold, n_cases, mean in [(right, 1, chosen.learned, 12.0)] + [
        (part, 0, chosen.held_out, 2.5) for part in left
    ]:
        for number in range(n_cases):
            name = f"{region.name}-{number:02d}"
            image, mask = plant(region, int(rng.poisson(mean)), rng)
            paths = [chosen.out / kind / f"{name}.nii.gz" for kind in ("images", "masks")]
            write_volume(image, paths[0])
            write_volume(mask, paths[1])
            cases.append(Case(name, name, fold, *paths))
            print(f"{name}: {ndimage.label(mask.data[0].numpy())[1]} nodules", flush=True)
    write_cases(chosen.out / "nodules.csv", cases, root=chosen.out)
    manifest = chosen.out / "nodules.yaml"
    manifest.write_text(yaml.safe_dump(_ABOUT, sort_keys=False), encoding="utf-8")
    print(manifest)


def find_regions(scan: Volume, real: Mask) -> list[Region]:
    """The right lung, and the left above and below its real nodule."""
    lung = _find_lungs(scan.data[0].numpy())
    middle = round(float(np.linalg.solve(scan.affine[:3, :3], -scan.affine[:3, 3])[2]))
    # The lungs lie on both sides of the column with the least lung near the scan's middle.
    columns = lung.sum(axis=(0, 1))
    near = slice(middle - 40, middle + 40)
    border = near.start + int(columns[near].argmin())
    sides = np.arange(lung.shape[2]) >= border
    planes = np.flatnonzero(real.any(axis=(1, 2)))
    apart = round(_REAL_MM / scan.spacing[0])
    below, above = planes.min() - apart, planes.max() + apart
    heights = np.arange(lung.shape[0])
    parts = {
        "right": lung & sides,
        "left-above": lung & ~sides & (heights > above)[:, None, None],
        "left-below": lung & ~sides & (heights < below)[:, None, None],
    }
    limits = {
        "right": (0, len(heights)),
        "left-above": (above, len(heights)),
        "left-below": (0, below),
    }
    return [_cut(scan, name, part, limits[name], (border, sides)) for name, part in parts.items()]


def plant(region: Region, n_nodules: int, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """The region with so many nodules, fewer where there is no more room, and their mask."""
    hu = region.image.data[0].numpy().astype(np.float64)
    mask = np.zeros(hu.shape, dtype=bool)
    taken = np.zeros(hu.shape, dtype=bool)
    places = np.argwhere(region.lung)
    for _ in range(20 * n_nodules):
        if ndimage.label(mask)[1] >= n_nodules:
            break
        place = places[rng.integers(len(places))]
        where, cover, density = _draw(place, region.image.spacing, hu.shape, rng)
        solid = cover > 0.5
        inside = (solid & region.lung[where]).sum() / max(1, solid.sum())
        if solid.sum() < _LEAST or inside < 0.6 or taken[where][solid].any():
            continue
        hu[where] = np.maximum(hu[where], hu[where] * (1 - cover) + cover * density)
        mask[where] |= solid
        taken[where] |= ndimage.binary_dilation(solid, iterations=3)
    image = region.image.with_data(torch.from_numpy(np.rint(hu).astype(np.int16))[None])
    return image, region.image.with_data(torch.from_numpy(mask.astype(np.uint8))[None])


def _draw(
    place: NDArray[np.intp],
    spacing: Sequence[float],
    shape: Sequence[int],
    rng: np.random.Generator,
) -> tuple[tuple[slice, ...], Voxels, Voxels]:
    """Where a nodule lies, how much of each voxel there it covers, and its HU."""
    radius = 0.5 * 5.0 * 4.0 ** rng.uniform()
    reach = np.ceil(1.6 * radius / np.array(spacing)).astype(int) + 1
    low, high = np.maximum(place - reach, 0), np.minimum(place + reach + 1, shape)
    where = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    fine = (np.arange(_FINER) + 0.5) / _FINER - 0.5
    d = (np.arange(low[0], high[0])[:, None] + fine).reshape(-1)
    axes = [d, np.arange(low[1], high[1]), np.arange(low[2], high[2])]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    apart = (grid - place - rng.uniform(-0.5, 0.5, 3)) * spacing
    turned = apart @ Rotation.random(random_state=rng).as_matrix().T
    turned = turned / (radius * rng.uniform(0.8, 1.25, 3))
    distance = np.linalg.norm(turned, axis=-1)
    direction = turned / np.maximum(distance, 1e-6)[..., None]
    lobes = sum(
        np.cos(k * direction @ _unit(rng) + rng.uniform(0, 2 * np.pi)) for k in (2.0, 3.0, 5.0)
    )
    surface = 1 + rng.uniform(0, 0.2) / 3 * lobes
    blur = rng.uniform(0.5, 1.2) / radius
    cover = 1 / (1 + np.exp(((distance - surface) / (0.5 * blur)).clip(-30, 30)))
    cover = cover.reshape(-1, _FINER, *cover.shape[1:]).mean(axis=1)
    solid = rng.uniform() < 0.7
    base = rng.uniform(-100, 80) if solid else rng.uniform(-650, -350)
    noise = ndimage.gaussian_filter(rng.normal(size=cover.shape), 1.5 / np.array(spacing))
    texture = noise / max(1e-6, noise.std()) * rng.uniform(10, 50)
    return where, cover, base + texture


def _unit(rng: np.random.Generator) -> Voxels:
    direction: Voxels = rng.normal(size=3)
    return direction / np.linalg.norm(direction)


def _find_lungs(hu: NDArray[np.int16]) -> Mask:
    """Air that reaches no side of the picture: the largest component, holes closed."""
    parts, _ = ndimage.label(hu < _AIR_HU)
    outside = np.unique(np.concatenate([parts[:, [0, -1]].ravel(), parts[:, :, [0, -1]].ravel()]))
    sizes = np.bincount(parts.ravel())
    sizes[outside] = 0
    lung: Mask = ndimage.binary_closing(parts == sizes.argmax(), iterations=2)
    return lung


def _cut(
    scan: Volume, name: str, lung: Mask, limits: tuple[int, int], sides: tuple[int, Mask]
) -> Region:
    """The box around a part of the lung, that ends where its side of the scan does."""
    found = np.argwhere(lung)
    margin = np.ceil(_MARGIN_MM / np.array(scan.spacing)).astype(int)
    low = np.maximum(found.min(axis=0) - margin, 0)
    high = np.minimum(found.max(axis=0) + margin + 1, lung.shape)
    low[0], high[0] = max(low[0], limits[0]), min(high[0], limits[1])
    border, _ = sides
    if name == "right":
        low[2] = max(low[2], border)
    else:
        high[2] = min(high[2], border)
    d, h, w = (int(n) for n in low)
    depth, height, width = (int(n) for n in high - low)
    inside = lung[d : d + depth, h : h + height, w : w + width]
    return Region(name, crop(scan, (d, h, w), (depth, height, width)), inside)


if __name__ == "__main__":
    main()

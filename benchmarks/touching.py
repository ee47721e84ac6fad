"""Balls and discs that touch: outlined one by one, against connected components of the same masks.

    .venv/bin/python benchmarks/touching.py --out DATA

Writes volumes of 32 x 64 x 64 voxels with 18 balls and slices of 128 x 128 pixels with 24 discs,
most of which touch another, learns from 40 of each (`touching_cpu`, five minutes at most), and
scores the outlines of 20 others. Radii are 4 to 8 voxels, brightness differs from object to object
by 25 %, noise is a fifth of it. Components are those of the network's own masks, so that only the
splitting differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.config import load_config
from pipeline.detection.prepare import prepare
from pipeline.files import read_json
from pipeline.instances.evaluate import evaluate
from pipeline.instances.predict import predict, prediction_path
from pipeline.instances.train import train
from pipeline.report.detection import write_detection_report
from pipeline.run import Run, create_run
from volumetric import Case, Volume, read_volume, write_cases, write_volume
from volumetric.boxes import Objects
from volumetric.instances import number_components
from volumetric.metrics.detection import score_detection
from volumetric.metrics.instances import match_instances, overlap_instances, score_instances

_SHAPES = {"volumes": ((32, 64, 64), 18), "slices": ((1, 128, 128), 24)}
_SHOWN = ("panoptic_quality", "recognition_quality", "count_error")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, each")
    chosen = parser.parse_args()
    for kind in _SHAPES:
        manifest = write_scenes(chosen.out / kind, kind)
        given = {"data.manifest": str(manifest), "train.minutes": chosen.minutes}
        run = create_run(load_config("touching_cpu", overrides=given), chosen.out / kind / "run")
        prepare(run)
        train(run, 0)
        predict(run, 0)
        evaluate(run)
        print(write_detection_report(run.folder, run.usable_cases(), classes=run.data_set.classes))
        tell(kind, run)


def tell(kind: str, run: Run) -> None:
    """Print what the outlines score, and what components of the same masks would."""
    ours = read_json(run.folder / "results.json")["metrics"]
    theirs = score_components(run)
    seconds = read_json(run.folder / "provenance.json")["seconds"]["train fold 0"]
    print(f"{kind}: {seconds / 60:.1f} min of training")
    print(f"  {'':<22}{'by middles':<26}connected components")
    for metric in (*_SHOWN, "ap@0.5"):
        one, other = ours[metric]["all"], theirs[metric]
        print(f"  {metric:<22}{text(one):<26}{text(other)}")


def score_components(run: Run) -> dict[str, dict[str, float]]:
    """The metrics of connected components of predicted masks."""
    matched, found, truth, pairs = [], [], [], []
    for case in (case for case in run.cases if case.fold == 0):
        numbers = read_volume(prediction_path(run, case)).data[0].numpy()
        true = read_volume(case.mask).data[0].numpy()
        parts = number_components(numbers > 0)
        matched.append(match_instances(parts, true))
        pairs.append(overlap_instances(parts, true))
        found.append(_unplaced(int(parts.max()), scored=True))
        truth.append(_unplaced(len(pairs[-1].T), scored=False))
    scores = {name: value for name, value in score_instances(matched).items() if name in _SHOWN}
    by_masks = score_detection(found, truth, classes=["object"], pairs=pairs)
    scores["ap@0.5"] = by_masks["ap@0.5"]["all"]
    return {name: vars(value) for name, value in scores.items()}


def write_scenes(folder: Path, kind: str) -> Path:
    """Write `folder`/touching.{yaml,csv} and its cases; return the manifest's path."""
    shape, n_objects = _SHAPES[kind]
    rng = np.random.default_rng(0)
    cases = []
    for number in range(60):
        numbers = place_balls(rng, shape, n_objects)
        bright = np.where(np.arange(256) > 0, rng.uniform(75, 125, 256), 0)
        image = ndimage.gaussian_filter(bright[numbers], [0.7 * (n > 1) for n in shape])
        image += rng.normal(0, 20, shape)
        name = f"{kind}-{number:02d}"
        paths = [folder / part / f"{name}.nii.gz" for part in ("images", "masks")]
        for array, path in zip((image.astype(np.float32), numbers), paths, strict=True):
            write_volume(Volume(torch.from_numpy(array)[None], np.eye(4)), path)
        cases.append(Case(name, name, 1 if number < 40 else 0, *paths))
    write_cases(folder / "touching.csv", cases, root=folder)
    about = {"name": "touching", "licence": "Apache-2.0", "modality": "other"}
    about |= {"classes": {1: "object"}, "instances": True, "cases": "touching.csv"}
    (folder / "touching.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    return folder / "touching.yaml"


def place_balls(
    rng: np.random.Generator, shape: tuple[int, ...], n_objects: int
) -> NDArray[np.uint8]:
    """Numbers of balls, four in five of which are put beside another."""
    numbers = np.zeros(shape, np.uint8)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    solid = np.array([n > 1 for n in shape])
    placed: list[tuple[NDArray[np.float64], float]] = []
    for _ in range(100 * n_objects):
        if len(placed) == n_objects:
            break
        radius = rng.uniform(4, 8)
        centre = np.array([rng.uniform(0, n - 1) for n in shape])
        if placed and rng.uniform() < 0.8:
            beside, other = placed[rng.integers(len(placed))]
            way = rng.normal(size=len(shape)) * solid
            centre = beside + way / np.linalg.norm(way) * (radius + other) * rng.uniform(0.92, 1)
        ends = zip(centre, shape, strict=True)
        if not all(n == 1 or radius <= c <= n - 1 - radius for c, n in ends):
            continue
        if all(np.linalg.norm(centre - c) > 0.9 * (radius + r) for c, r in placed):
            ball = (((grid - centre) * solid) ** 2).sum(-1) < radius**2
            placed.append((centre, radius))
            numbers[ball & (numbers == 0)] = len(placed)
    return numbers


def text(value: dict[str, float]) -> str:
    if value["ci_low"] is None:
        return f"{value['mean']:.3f}"
    return f"{value['mean']:.3f} ({value['ci_low']:.3f} to {value['ci_high']:.3f})"


def _unplaced(n: int, *, scored: bool) -> Objects:
    """Objects of which only their overlaps count."""
    scores = np.ones(n) if scored else None
    return Objects(np.tile([0.0, 0, 0, 1, 1, 1], (n, 1)), np.zeros(n, np.int64), scores)


if __name__ == "__main__":
    main()

"""The demo's clips: a shape that crosses the frame, eight motions that single frames do not tell.

A shape leaves the frame on one side and enters it on the other, one to four times in 24 frames,
either way. Each motion visits each of 24 places once in 24 frames, so that even all frames
together, out of order, do not tell one motion from another: only their order does. Shape,
colours, height and size are random.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from volumetric.cases import Case, write_cases
from volumetric.io.video.write import write_video

RATE = 12.0  # frames a second
PERIOD = 24  # frames in which every motion visits every place once
_SIDE = 64  # pixels
_LAPS = {"slow": 1, "medium": 2, "fast": 3, "very fast": 4}
_WAYS = {"to the right": 1, "to the left": -1}
MOTIONS = tuple(f"{speed} {way}" for way in _WAYS for speed in _LAPS)

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """What does not tell the motion: all of it is drawn at random.

    Attributes:
        n_corners: of the shape; 0 for a disc.
        radius: of the shape, in pixels.
        height: of its way, in pixels from the top.
        colour: of the shape, red, green and blue from 0 to 255.
        background: (64, 64, 3), smooth.
        place: on which of the places it starts.
    """

    n_corners: int
    radius: float
    height: float
    colour: NDArray[np.float64]
    background: NDArray[np.float64]
    place: int


def write_motions(folder: Path, *, n_learned: int = 24, n_held_out: int = 8) -> Path:
    """Write `folder`/motions.{yaml,csv} and real mp4 files; return the path of the manifest's YAML.

    Each of `n_learned` scenes in fold 1 and of `n_held_out` in fold 0 is shown in every motion,
    so that no network can know the motion by the scene; a scene is a subject. Clips are two to
    three seconds long.
    """
    rng = np.random.default_rng(0)
    cases = []
    for number in range(n_learned + n_held_out):
        scene = draw_scene(rng)
        for label in MOTIONS:
            name = f"scene{number:02d}-{label.replace(' ', '-')}"
            path = folder / "clips" / f"{name}.mp4"
            n_frames = int(rng.integers(PERIOD, PERIOD + 13))
            one = replace(scene, place=int(rng.integers(PERIOD)))
            _write(path, draw_motion(label, one, n_frames=n_frames))
            fold = 1 if number < n_learned else 0
            cases.append(Case(name, f"scene{number:02d}", fold, path, label=label))
    write_cases(folder / "motions.csv", cases, root=folder)
    about = {
        "name": "motions",
        "description": "Drawn shapes on a circle; eight motions that single frames do not tell.",
        "licence": "Apache-2.0",
        "modality": "video",
        "labels": list(MOTIONS),
        "sides_matter": True,
        "cases": "motions.csv",
    }
    manifest = folder / "motions.yaml"
    manifest.write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")
    return manifest


def write_stitched(path: Path, *, n_segments: int = 12, seed: int = 1) -> Path:
    """Write a long video of one motion after the other in one scene, and what happens when.

    Returns the path of that truth, a CSV beside the video as `volumetric recognize --truth` takes
    it.
    """
    rng = np.random.default_rng(seed)
    labels: list[str] = []
    while len(labels) < n_segments:
        label = MOTIONS[int(rng.integers(len(MOTIONS)))]
        if not labels or labels[-1] != label:
            labels.append(label)
    lengths = [int(n) for n in rng.integers(round(4 * RATE), round(8 * RATE), n_segments)]
    scene = draw_scene(rng)
    _write(path, _stitch(labels, lengths, scene))
    ends = np.cumsum([0, *lengths]) / RATE
    truth = path.with_suffix(".csv")
    with truth.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "start_s", "end_s", "label"])
        for start_s, end_s, label in zip(ends[:-1], ends[1:], labels, strict=True):
            writer.writerow([path.name, round(start_s, 3), round(end_s, 3), label])
    return truth


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene that no motion is bound to."""
    radius = rng.uniform(5, 10)
    height = rng.uniform(radius + 1, _SIDE - radius - 1)
    colour = rng.uniform(0, 255, 3)
    coarse = rng.uniform(0, 255, (3, 3, 3))
    # The background keeps away from the shape's colour, or there would be nothing to see.
    coarse = np.where(np.abs(coarse - colour) < 90, (colour + 128) % 256, coarse)
    smooth = torch.from_numpy(coarse).permute(2, 0, 1)[None]
    background = torch.nn.functional.interpolate(smooth, size=(_SIDE, _SIDE), mode="bilinear")
    return Scene(
        n_corners=int(rng.choice([0, 3, 4, 5])),
        radius=float(radius),
        height=float(height),
        colour=colour,
        background=background[0].permute(1, 2, 0).numpy(),
        place=int(rng.integers(PERIOD)),
    )


def draw_motion(label: str, scene: Scene, *, n_frames: int) -> Iterator[Frames]:
    """Frames (64, 64, 3) uint8 of a scene in motion."""
    for place in _places(label, scene.place, n_frames):
        yield _draw(scene, place)


def _places(label: str, first: int, n_frames: int) -> list[int]:
    """The place in each frame; one further after each crossing: none is left out."""
    speed, way = label.split(" to ")
    way = f"to {way}"
    laps = _LAPS[speed]
    steps = PERIOD // laps
    return [
        (first + _WAYS[way] * ((n % steps) * laps + (n // steps) % laps)) % PERIOD
        for n in range(n_frames)
    ]


def _stitch(labels: Sequence[str], lengths: Sequence[int], scene: Scene) -> Iterator[Frames]:
    place = scene.place
    for label, length in zip(labels, lengths, strict=True):
        places = _places(label, place, length + 1)
        for one in places[:-1]:
            yield _draw(scene, one)
        place = places[-1]


def _draw(scene: Scene, place: int) -> Frames:
    y, x = np.mgrid[:_SIDE, :_SIDE] + 0.5
    # Beyond one side lies the other.
    right = (x - _SIDE * place / PERIOD + _SIDE / 2) % _SIDE - _SIDE / 2
    down = y - scene.height
    distance = np.hypot(right, down)
    if scene.n_corners:
        # Distance to the nearest side of a regular polygon that keeps upright.
        sides = np.pi / scene.n_corners
        around = np.arctan2(right, -down)
        distance = distance * np.cos((around + sides) % (2 * sides) - sides) / np.cos(sides) ** 0.5
    cover = np.clip(scene.radius - distance + 0.5, 0, 1)[..., None]
    picture = cover * scene.colour + (1 - cover) * scene.background
    return np.asarray(np.clip(picture + 0.5, 0, 255), dtype=np.uint8)


def _write(path: Path, frames: Iterator[Frames]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (torch.from_numpy(frame) for frame in frames), rate=RATE)

"""Objects of a case: out of its mask or its boxes, and drawn patch by patch to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from volumetric.augment import Augmentation, augment_boxes
from volumetric.boxes import Objects
from volumetric.cases import Case
from volumetric.dataset import Triple, hold_images, place_patch, read_box
from volumetric.detection_loss import Target
from volumetric.instances import number_components
from volumetric.io.boxes import read_boxes
from volumetric.io.prepared import Prepared
from volumetric.volume import Volume

_LEAST_SEEN = 1 / 3  # of an object that a patch's edge cuts, to be asked for


@dataclass(frozen=True, eq=False)
class ObjectSource:
    """One case to draw patches from: in memory or on the device if it fits, else on disk.

    Attributes:
        prepared: the case on disk.
        objects: what is in it, in its voxels.
        image: (C, D, H, W), or None to read each patch from disk.
    """

    prepared: Prepared
    objects: Objects
    image: torch.Tensor | None = None


def find_objects(
    case: Case,
    image: Volume,
    mask: Volume | None,
    *,
    classes: Mapping[int, str],
    numbered: bool = False,
) -> Objects | None:
    """What is in a case, in voxels of its image; None where nobody says.

    By its boxes, or else by its mask, of which each 26-connected component of a class is an object;
    by its mask alone, each value of which is an object, if that is `numbered`. Labels are numbers
    from 0, in the order of `classes`.

    Raises:
        UnreadableFileError, LabelError, GeometryError: as `read_boxes`.
    """
    if case.boxes is not None and not numbered:
        return read_boxes(case.boxes, classes=list(classes.values()), image=image)
    if mask is None:
        return None
    boxes: list[list[float]] = []
    labels: list[int] = []
    for number, value in enumerate(classes):
        array = mask.data[0].numpy()
        parts = array if numbered else number_components(array == value)
        places = [place for place in ndimage.find_objects(parts) if place is not None]
        boxes += [[s.start - 0.5 for s in one] + [s.stop - 0.5 for s in one] for one in places]
        labels += [number] * len(places)
    return Objects(np.array(boxes, dtype=np.float64).reshape(-1, 6), np.array(labels, np.int64))


def fill_boxes(objects: Objects, image: Volume, *, classes: Mapping[int, str]) -> Volume:
    """A mask of the image in which each box is filled with its class, uint8."""
    mask = torch.zeros((1, *image.shape), dtype=torch.uint8)
    values = list(classes)
    ends = np.rint(objects.boxes + 0.5).clip(0).astype(int).tolist()
    for (d, h, w, to_d, to_h, to_w), label in zip(ends, objects.labels.tolist(), strict=True):
        mask[0, d:to_d, h:to_h, w:to_w] = values[label]
    return image.with_data(mask)


def open_objects(
    cases: Sequence[Prepared], *, device: torch.device, budget_bytes: int
) -> list[ObjectSource]:
    """Sources for `draw_objects`: all held on the device if their sum stays within the budget."""
    held = hold_images(cases, device=device, budget_bytes=budget_bytes)
    return [ObjectSource(case, stored_objects(case.facts), held.get(case.path)) for case in cases]


def stored_objects(facts: Mapping[str, Any]) -> Objects:
    """What the facts of a case, or of a prepared one, say is in it, in its own voxels."""
    boxes = np.array(facts["boxes"], dtype=np.float64).reshape(-1, 6)
    return Objects(boxes, np.array(facts["labels"], dtype=np.int64))


def draw_objects(
    sources: Sequence[ObjectSource],
    rng: np.random.Generator,
    *,
    patch_size: Triple,
    batch_size: int,
    foreground: float,
) -> tuple[torch.Tensor, list[Target]]:
    """Images (B, C, *patch) float32 and what is in each, of cases drawn with replacement.

    With probability `foreground` a patch holds a point of an object drawn evenly from its case's,
    anywhere in its inner half, else it is placed anywhere inside.
    """
    images, targets = [], []
    for _ in range(batch_size):
        source = sources[int(rng.integers(len(sources)))]
        shape, boxes = source.prepared.shape, source.objects.boxes
        centre = None
        if len(boxes) and rng.random() < foreground:
            box = boxes[int(rng.integers(len(boxes)))]
            aside = rng.uniform(-0.25, 0.25, 3) * patch_size
            centre = np.rint(rng.uniform(box[:3], box[3:]) + aside).astype(np.int64)
        start = place_patch(shape, patch_size, centre, rng)
        images.append(read_box(source.prepared, source.image, start, patch_size))
        targets.append(_target(source.objects, start, patch_size))
    return torch.stack(images), targets


def augment_objects(
    images: torch.Tensor,
    targets: Sequence[Target],
    generator: torch.Generator,
    *,
    settings: Augmentation,
    spacing: tuple[float, float, float],
) -> tuple[torch.Tensor, list[Target]]:
    """Changed images and what is in each now, see `augment_boxes`; cut off at the patch's edge.

    Objects of which less than a third of what the patch had is left are not asked for.
    """
    images, moved = augment_boxes(
        images, [one.boxes for one in targets], generator, settings=settings, spacing=spacing
    )
    cut = [
        cut_target(Target(boxes, one.labels), images.shape[2:])
        for boxes, one in zip(moved, targets, strict=True)
    ]
    return images, cut


def cut_target(target: Target, shape: Sequence[int]) -> Target:
    """What is in a patch of that shape: a third of an object at least, and of it what is inside."""
    end = torch.tensor(shape, device=target.boxes.device, dtype=target.boxes.dtype) - 0.5
    low, high = target.boxes.chunk(2, 1)
    inner_low, inner_high = low.clamp(min=-0.5), torch.minimum(high, end)
    seen = (inner_high - inner_low).clamp(min=0).prod(1) / (high - low).prod(1)
    kept = seen >= _LEAST_SEEN
    return Target(torch.cat([inner_low, inner_high], 1)[kept], target.labels[kept])


def _target(objects: Objects, start: Triple, patch_size: Triple) -> Target:
    boxes = torch.from_numpy(objects.boxes - np.tile(start, 2)).to(torch.float32)
    return cut_target(Target(boxes, torch.from_numpy(objects.labels)), patch_size)

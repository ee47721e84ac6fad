"""Boxes of a case: read, drawn patch by patch, moved with their image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from volumetric.augment import Augmentation, augment_boxes
from volumetric.boxes import Objects, move_boxes
from volumetric.cases import Case
from volumetric.detection_loss import Target
from volumetric.errors import GeometryError, LabelError, UnreadableFileError, VolumetricError
from volumetric.io.boxes import read_boxes, write_boxes
from volumetric.io.prepared import open_prepared, write_prepared
from volumetric.objects import (
    augment_objects,
    cut_target,
    draw_objects,
    fill_boxes,
    find_objects,
    open_objects,
)
from volumetric.preprocess import prepare
from volumetric.volume import Volume

HEADER = "label,x_min,y_min,z_min,x_max,y_max,z_max\n"
CLASSES = ["ball", "cube"]
# Voxels of 2 x 1 x 1.5 mm; D runs to the feet, H to the front, W to the left.
AFFINE = np.array([[0, 0, -1.5, 40.0], [0, 1.0, 0, -100], [-2.0, 0, 0, 70], [0, 0, 0, 1]])


def _image(affine: np.ndarray = AFFINE) -> Volume:
    return Volume(torch.zeros(1, 20, 30, 24), affine)


def _write(path: Path, rows: str) -> Path:
    path.write_text(HEADER + rows)
    return path


def test_boxes_in_mm_lie_where_their_voxels_do(tmp_path: Path) -> None:
    # Voxels d 3 to 5, h 10 to 13, w 2 to 3.
    ends = AFFINE @ np.array([[2.5, 5.5], [9.5, 13.5], [1.5, 3.5], [1, 1]])
    low, high = ends[:3].min(axis=1), ends[:3].max(axis=1)
    row = ",".join(str(value) for value in [*low, *high])
    objects = read_boxes(
        _write(tmp_path / "a.csv", f"cube,{row}\n"), classes=CLASSES, image=_image()
    )
    assert objects.labels.tolist() == [1]
    np.testing.assert_allclose(objects.boxes, [[2.5, 9.5, 1.5, 5.5, 13.5, 3.5]])


def test_written_boxes_are_read_again(tmp_path: Path) -> None:
    boxes = np.array([[2.5, 9.5, 1.5, 5.5, 13.5, 3.5], [0, 0, 0, 8.25, 4, 4.5]])
    scores = np.array([0.9, 0.3])
    for number, one in enumerate((None, scores)):
        objects = Objects(boxes, np.array([1, 0]), one)
        path = tmp_path / f"{number}.csv"
        write_boxes(path, objects, classes=CLASSES, image=_image())
        again = read_boxes(path, classes=CLASSES, image=_image())
        np.testing.assert_allclose(again.boxes, boxes, atol=1e-4)
        assert again.labels.tolist() == [1, 0]


def test_a_table_of_its_header_says_that_nothing_is_there(tmp_path: Path) -> None:
    objects = read_boxes(_write(tmp_path / "a.csv", ""), classes=CLASSES, image=_image())
    assert objects.boxes.shape == (0, 6)


@pytest.mark.parametrize(
    ("rows", "kind", "reason"),
    [
        ("ring,10,-90,40,14,-85,44\n", LabelError, "'ring', which is no class"),
        ("ball,14,-90,40,10,-85,44\n", GeometryError, "its corners are exchanged"),
        ("ball,10,-90,40,10,-85,44\n", GeometryError, "no size along an axis"),
        ("ball,10,-90,40,14,-85\n", UnreadableFileError, "6 cells of 7"),
        ("ball,10,-90,40,14,-85,far\n", UnreadableFileError, "far"),
        ("ball,10,-90,40,14,-85,nan\n", UnreadableFileError, "not finite"),
        ("ball,10,-90,40,14,-85,90\n", GeometryError, "reaches out of its image"),
        ("ball,2,5,3,6,9,8\n", GeometryError, "look like voxels, not mm"),
        ("ball,-14,85,40,-10,90,44\n", GeometryError, "DICOM's axes, LPS+"),
        ("ball,10,-90,40,14,-85,44\n" * 2, GeometryError, "box 2 is box 1 again"),
    ],
    ids=["class", "inverted", "flat", "short", "word", "nan", "outside", "voxels", "lps", "twice"],
)
def test_bad_boxes_are_refused(
    rows: str, kind: type[VolumetricError], reason: str, tmp_path: Path
) -> None:
    path = _write(
        tmp_path / "a.csv", "ball,10,-90,40,14,-85,44\n" * (kind is not GeometryError) + rows
    )
    with pytest.raises(kind, match=reason) as caught:
        read_boxes(path, classes=CLASSES, image=_image())
    assert caught.value.path == str(path)
    assert caught.value.remedy


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("label,x,y,z\nball,1,2,3\n")
    with pytest.raises(UnreadableFileError, match="has columns label, x, y, z"):
        read_boxes(path, classes=CLASSES, image=_image())


def test_objects_of_a_mask_are_its_components() -> None:
    mask = torch.zeros(1, 20, 30, 24, dtype=torch.uint8)
    mask[0, 2:5, 3:6, 4:9] = 2
    mask[0, 10:12, 3:6, 4:9] = 2
    mask[0, 5, 6, 9] = 1  # it touches the first at a corner, and is of another class
    image = _image()
    case = Case("a", "a", 0, Path("a.nii.gz"), Path("m.nii.gz"))
    objects = find_objects(case, image, image.with_data(mask), classes={1: "ball", 2: "cube"})
    assert objects is not None
    assert objects.labels.tolist() == [0, 1, 1]
    assert objects.boxes.tolist() == [
        [4.5, 5.5, 8.5, 5.5, 6.5, 9.5],
        [1.5, 2.5, 3.5, 4.5, 5.5, 8.5],
        [9.5, 2.5, 3.5, 11.5, 5.5, 8.5],
    ]
    filled = fill_boxes(objects, image, classes={1: "ball", 2: "cube"})
    assert torch.equal(filled.data, mask)


def test_who_says_nothing_and_who_says_that_nothing_is_there_differ() -> None:
    case, image = Case("a", "a", 0, Path("a.nii.gz")), _image()
    assert find_objects(case, image, None, classes={1: "ball"}) is None
    empty = image.with_data(torch.zeros(1, 20, 30, 24, dtype=torch.uint8))
    nothing = find_objects(case, image, empty, classes={1: "ball"})
    assert nothing is not None
    assert len(nothing.boxes) == 0


@given(st.integers(0, 47), st.floats(0.6, 2.5))
def test_boxes_follow_their_image_through_preparation(order: int, step: float) -> None:
    # Every one of the 48 ways to permute and flip axes.
    axes = [(a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3]
    permutation, flips = axes[order // 8], [1 - 2 * (order >> bit & 1) for bit in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, permutation] * flips * [2.0, 1.0, 1.5]
    data = torch.zeros(1, 20, 30, 24)
    data[0, 3:, 2:-4, 1:] = 1  # what lies around it is cropped
    data[0, 6:13, 8:19, 5:17] = 9
    image = Volume(data, affine)
    prepared, _ = prepare(image, None, spacing=(step, step, step), intensity={"kind": "range"})
    box = np.array([[5.5, 7.5, 4.5, 12.5, 18.5, 16.5]])
    there = move_boxes(box, np.linalg.inv(prepared.affine) @ image.affine)[0]
    bright = (prepared.data[0] > (1 + 9) / 2 / 9).nonzero().numpy()
    ends = np.concatenate([bright.min(axis=0) - 0.5, bright.max(axis=0) + 0.5])
    np.testing.assert_allclose(ends, there, atol=0.75)  # a threshold cannot tell half a voxel


def _scene(shape: tuple[int, int, int], boxes: list[list[int]]) -> torch.Tensor:
    image = torch.zeros(1, *shape)
    for d, h, w, to_d, to_h, to_w in boxes:
        image[0, d:to_d, h:to_h, w:to_w] = 1
    return image


def test_mirrored_scaled_and_shifted_boxes_stay_on_their_objects() -> None:
    ends = [10, 12, 9, 16, 22, 17]
    images = torch.stack([_scene((32, 40, 36), [ends])] * 24)
    box = torch.tensor([[n - 0.5 for n in ends]])
    settings = Augmentation(
        p_spatial=1, rotation_degrees=0, scale=0.3, shift=0.1, elastic=0.5, p_intensity=0
    )
    moved, boxes = augment_boxes(
        images, [box] * 24, torch.Generator().manual_seed(0), settings=settings, spacing=(2, 1, 1)
    )
    for image, own in zip(moved, boxes, strict=True):
        inside = (image[0] > 0.5).nonzero()
        low, high = inside.amin(0) - 0.5, inside.amax(0) + 0.5
        # Half a voxel is what a threshold cannot tell.
        torch.testing.assert_close(torch.cat([low, high]), own[0], atol=0.6, rtol=0)


def test_turned_boxes_hold_turned_ellipsoids() -> None:
    grid = torch.stack(torch.meshgrid(*(torch.arange(48.0),) * 3, indexing="ij"), -1)
    radii, middle = torch.tensor([6.0, 12.0, 8.0]), torch.tensor([23.5, 23.5, 23.5])
    ball = (((grid - middle) / radii).square().sum(-1) <= 1).float()
    images = ball[None, None].repeat(12, 1, 1, 1, 1)
    box = torch.cat([middle - radii, middle + radii])[None]
    settings = Augmentation(p_spatial=1, rotation_degrees=40, scale=0, elastic=0, p_intensity=0)
    moved, boxes = augment_boxes(
        images, [box] * 12, torch.Generator().manual_seed(0), settings=settings, spacing=(1, 1, 1)
    )
    turned = 0
    for image, own in zip(moved, boxes, strict=True):
        inside = (image[0] > 0.5).nonzero()
        ends = torch.cat([inside.amin(0) - 0.5, inside.amax(0) + 0.5])
        torch.testing.assert_close(ends, own[0], atol=1.1, rtol=0)
        turned += int((own[0] - box[0]).abs().max() > 2)
    assert turned > 6


def test_what_an_edge_cuts_is_asked_for_as_far_as_it_is_seen() -> None:
    target = Target(
        torch.tensor([[-4.5, 1, 1, 5.5, 4, 4], [-9.5, 1, 1, 2.5, 4, 4], [20, 20, 20, 25, 25, 25]]),
        torch.tensor([0, 1, 0]),
    )
    cut = cut_target(target, (16, 16, 16))
    assert cut.labels.tolist() == [0]  # of the second a quarter is inside, of the third nothing
    assert cut.boxes.tolist() == [[-0.5, 1, 1, 5.5, 4, 4]]


def test_patches_hold_what_is_drawn(tmp_path: Path) -> None:
    ends = [[3, 4, 5, 8, 10, 12], [20, 30, 26, 24, 34, 30]]
    image = Volume(_scene((28, 40, 36), ends), np.eye(4))
    boxes = [[n - 0.5 for n in one] for one in ends]
    path = tmp_path / "a.safetensors"
    write_prepared(path, image, None, foreground={}, facts={"boxes": boxes, "labels": [0, 1]})
    for budget in (0, 1 << 30):
        sources = open_objects(
            [open_prepared(path)], device=torch.device("cpu"), budget_bytes=budget
        )
        assert (sources[0].image is None) == (budget == 0)
        images, targets = draw_objects(
            sources, np.random.default_rng(0), patch_size=(16, 24, 16), batch_size=40, foreground=1
        )
        for patch, target in zip(images, targets, strict=True):
            # What is asked for is bright, and its edges are where the patch says.
            asked = torch.zeros_like(patch[0])
            for row in (target.boxes + 0.5).round().int().tolist():
                d, h, w, to_d, to_h, to_w = row
                asked[d:to_d, h:to_h, w:to_w] = 1
            assert torch.equal(asked * patch[0], asked)
        assert sum(len(target.boxes) > 0 for target in targets) > 30
        assert {label for target in targets for label in target.labels.tolist()} == {0, 1}


def test_augmented_objects_leave_what_moved_out_behind() -> None:
    images = torch.zeros(8, 1, 16, 16, 16)
    target = Target(torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([0]))
    settings = Augmentation(
        p_spatial=1, rotation_degrees=0, scale=0, shift=0.5, elastic=0, flip_axes=(), p_intensity=0
    )
    _, targets = augment_objects(
        images, [target] * 8, torch.Generator().manual_seed(0), settings=settings, spacing=(1, 1, 1)
    )
    n_left = [len(one.boxes) for one in targets]
    assert 0 in n_left
    assert 1 in n_left
    for one in targets:
        assert (one.boxes >= -0.5).all()
        assert (one.boxes <= 15.5).all()


def test_boxes_of_an_oblique_scan_hold_theirs_and_stay_inside(tmp_path: Path) -> None:
    angle = np.radians(15)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = _image(turn @ AFFINE)
    boxes = np.array([[1.0, 1.0, 1.0, 5.0, 6.0, 5.0], [10, 12, 10, 14, 18, 15]])
    path = tmp_path / "a.csv"
    write_boxes(path, Objects(boxes, np.array([0, 1])), classes=CLASSES, image=image)
    again = read_boxes(path, classes=CLASSES, image=image).boxes
    assert (again[:, :3] <= boxes[:, :3] + 1e-3).all()
    assert (again[:, 3:] >= boxes[:, 3:] - 1e-3).all()
    assert (again[:, :3] >= -0.5).all()
    far = np.array([[1.0, 1.0, -9.0, 5.0, 6.0, -5.0]])
    write_boxes(path, Objects(far, np.array([0])), classes=CLASSES, image=image)
    with pytest.raises(GeometryError, match="reaches out of its image"):
        read_boxes(path, classes=CLASSES, image=image)

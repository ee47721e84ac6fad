from __future__ import annotations

import pytest
import torch

from volumetric.boxes import overlap_pairs
from volumetric.detection_loss import Target, assign_cells, detection_loss
from volumetric.models.detector import Cells, Detector


def _detector(n_classes: int = 2, *, flat: bool = False) -> Detector:
    torch.manual_seed(0)
    stride, kernel = ((1, 2, 2), (1, 3, 3)) if flat else ((2, 2, 2), (3, 3, 3))
    return Detector(
        1,
        n_classes,
        features=(8, 16, 24),
        strides=[(1, 1, 1), stride, stride],
        kernels=[kernel] * 3,
        width=16,
    )


def _scene(*, flat: bool) -> tuple[torch.Tensor, list[Target]]:
    """Two images: a small bright and a large dark box; and a large dark one elsewhere."""
    depth = 1 if flat else 16
    images = torch.zeros(2, 1, depth, 32, 32)
    d = (0, 1) if flat else (3, 8)
    places = [[(d, (4, 10), (5, 11), 0), (d, (14, 28), (15, 28), 1)], [(d, (3, 17), (10, 24), 1)]]
    targets = []
    for image, boxes in zip(images, places, strict=True):
        for (a, b), (c, e), (f, g), label in boxes:
            image[0, a:b, c:e, f:g] = (1.0, -1.0)[label]
        rows = [
            [a - 0.5, c - 0.5, f - 0.5, b - 0.5, e - 0.5, g - 0.5]
            for (a, b), (c, e), (f, g), _ in boxes
        ]
        targets.append(Target(torch.tensor(rows), torch.tensor([box[3] for box in boxes])))
    return images, targets


def test_cells_of_every_grid_lie_where_they_are() -> None:
    cells = _detector().eval()(torch.zeros(2, 1, 16, 24, 32))
    n = 8 * 12 * 16 + 4 * 6 * 8
    assert cells.logits.shape == (2, n, 2)
    assert cells.centres.shape == (2, n)
    assert cells.boxes.shape == (2, n, 6)
    # The first cell of stride 2 is voxels 0 and 1, the last of stride 4 ends with the image.
    assert cells.points[0].tolist() == [0.5, 0.5, 0.5]
    assert (cells.points[-1] + cells.strides[-1] / 2 + 0.5).tolist() == [16, 24, 32]
    assert cells.strides.unique(dim=0).tolist() == [[2, 2, 2], [4, 4, 4]]
    low, high = cells.boxes.split(3, -1)
    assert (low < cells.points).all()
    assert (high > cells.points).all()


def test_everything_in_a_slice_is_one_voxel_deep() -> None:
    cells = _detector(flat=True).eval()(torch.randn(1, 1, 1, 24, 32))
    assert cells.boxes[..., 0].unique().tolist() == [-0.5]
    assert cells.boxes[..., 3].unique().tolist() == [0.5]


@pytest.mark.parametrize("flat", [False, True], ids=["volume", "slice"])
def test_two_images_are_learnt_by_heart(flat: bool) -> None:
    images, targets = _scene(flat=flat)
    detector = _detector(flat=flat)
    optimizer = torch.optim.AdamW(detector.parameters(), 5e-3)
    for _ in range(120):
        loss = detection_loss(detector.train()(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        cells = detector.eval()(images)
    scores = cells.logits.sigmoid() * cells.centres.sigmoid()[..., None]
    for number, target in enumerate(targets):
        for box, label in zip(target.boxes, target.labels, strict=True):
            # The surest cells of a class are on its object, and their boxes fit.
            surest = scores[number, :, label].argmax()
            same = target.boxes[target.labels == label]
            assert overlap_pairs(same, cells.boxes[number, surest]).max() > 0.8
            assert scores[number, surest, label] > 0.5
            best = scores[number, :, label] * (overlap_pairs(box, cells.boxes[number]) > 0.7)
            assert best.max() > 0.5
        absent = {0, 1} - set(target.labels.tolist())
        for label in absent:
            assert scores[number, :, label].max() < 0.3


def test_cells_are_given_to_objects_they_lie_in() -> None:
    images, targets = _scene(flat=False)
    cells = _detector()(images)
    for number, target in enumerate(targets):
        owner = assign_cells(cells, number, target)
        assert set(owner.unique().tolist()) == {-1, *range(len(target.boxes))}
        for cell in (owner >= 0).nonzero().flatten():
            box = target.boxes[owner[cell]]
            assert (cells.points[cell] > box[:3]).all()
            assert (cells.points[cell] < box[3:]).all()
        counts = torch.bincount(owner[owner >= 0])
        assert (counts <= 10).all()


def test_an_object_smaller_than_a_cell_is_given_one() -> None:
    cells = _detector()(torch.zeros(1, 1, 16, 16, 16))
    tiny = Target(torch.tensor([[6.6, 6.6, 6.6, 7.4, 7.4, 7.4]]), torch.tensor([1]))
    owner = assign_cells(cells, 0, tiny)
    assert (owner >= 0).sum() == 1
    assert torch.isfinite(detection_loss(cells, [tiny]))


def test_an_image_without_objects_pulls_every_centre_down() -> None:
    detector = _detector()
    nothing = Target(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    cells = detector(torch.randn(2, 1, 16, 16, 16))
    assert (assign_cells(cells, 0, nothing) == -1).all()
    detection_loss(cells, [nothing, nothing]).backward()
    assert detector.centre.bias.grad > 0
    assert detector.classes[-1].bias.grad is None or not detector.classes[-1].bias.grad.any()


def test_a_better_box_costs_less() -> None:
    truth = Target(torch.tensor([[2.0, 2, 2, 10, 10, 10]]), torch.tensor([0]))
    losses = []
    for shift in (0.0, 1.0, 3.0):
        boxes = truth.boxes + shift
        cells = Cells(
            torch.zeros(1, 1, 1),
            torch.zeros(1, 1),
            boxes[None],
            torch.full((1, 3), 6.0),
            torch.full((1, 3), 4.0),
        )
        losses.append(float(detection_loss(cells, [truth])))
    assert losses[0] < losses[1] < losses[2]


def test_detector_exports_what_it_says() -> None:
    detector = _detector().eval()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = detector

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            cells = self.detector(images)
            return cells.logits, cells.centres, cells.boxes

    images = torch.randn(1, 1, 16, 16, 16)
    exported = torch.export.export(Plain(), (images,)).module()(images)
    for one, other in zip(exported, Plain()(images), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_hard_negatives_are_those_that_are_surest() -> None:
    images, targets = _scene(flat=False)
    cells = _detector().eval()(images)
    n_given = sum(int((assign_cells(cells, n, one) >= 0).sum()) for n, one in enumerate(targets))
    n_others = cells.centres.numel() - n_given
    every = detection_loss(cells, targets)
    few = detection_loss(cells, targets, hard_negatives=1)
    many = detection_loss(cells, targets, hard_negatives=n_others)
    torch.testing.assert_close(many, every)
    # Without the easy ones the same cells with an object count, and the surest without.
    owners = [assign_cells(cells, n, one) for n, one in enumerate(targets)]
    easy = 0.0
    for number, owner in enumerate(owners):
        others = cells.centres[number][owner < 0]
        costs = torch.nn.functional.softplus(others).sort(descending=True).values
        easy += costs[int((owner >= 0).sum()) :].sum()
    torch.testing.assert_close(few, every - easy / n_given)


def test_hard_negatives_of_an_empty_image_are_one() -> None:
    images, targets = _scene(flat=False)
    nothing = [Target(one.boxes[:0], one.labels[:0]) for one in targets]
    cells = _detector().eval()(images)
    loss = detection_loss(cells, nothing, hard_negatives=3)
    costs = torch.nn.functional.softplus(cells.centres).sort(1, descending=True).values
    torch.testing.assert_close(loss, costs[:, :3].sum())

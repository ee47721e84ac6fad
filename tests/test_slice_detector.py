"""Faster R-CNN on slices: what it is asked, what it says, and a run of it from scans to results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from pipeline.config import parse_config
from pipeline.detection.evaluate import evaluate
from pipeline.detection.predict import predict
from pipeline.detection.prepare import prepare
from pipeline.detection.train import train
from pipeline.run import create_run
from tests.test_detection import detect_config
from volumetric.boxes import Objects, overlap_boxes
from volumetric.errors import ConfigError
from volumetric.inference.detect import read_cells
from volumetric.learning import Lesson, Training, fit
from volumetric.models.detector import Cells
from volumetric.models.slice_detector import SliceDetector
from volumetric.models.slice_encoder import slice_encoder


def _network(axis: int = 0, *, n_channels: int = 1, neighbours: int = 1) -> SliceDetector:
    torch.manual_seed(0)
    stages, widths = slice_encoder(
        "resnet18", n_stages=3, n_channels=(2 * neighbours + 1) * n_channels
    )
    return SliceDetector(
        stages,
        widths,
        n_classes=2,
        n_levels=2,
        width=16,
        neighbours=neighbours,
        slice_axis=axis,
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_slice_that_an_object_reaches_asks_for_all_of_it(axis: int) -> None:
    network = _network(axis)
    box = torch.tensor([[1.5, 3.5, 5.5, 4.5, 8.5, 11.5]])  # D 2 to 4, H 4 to 8, W 6 to 11
    reached = {0: range(2, 5), 1: range(4, 9), 2: range(6, 12)}[axis]
    plane = {0: [4, 6, 9, 12], 1: [2, 6, 5, 12], 2: [2, 4, 5, 9]}[axis]  # from pixels' edges
    slices = network._cut(box, torch.tensor([1]), depth=16)
    for number, (boxes, labels) in enumerate(slices):
        assert boxes.tolist() == ([plane] if number in reached else [])
        assert labels.tolist() == ([2] if number in reached else [])  # 0 is background


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_linked_objects_are_told_as_cells_and_read_again(axis: int) -> None:
    network = _network(axis)
    along = [axis, *(other for other in range(3) if other != axis)]
    box = np.array([1.5, 3.5, 5.5, 4.5, 8.5, 11.5])
    linked = [
        Objects(box[[*along, *(3 + one for one in along)]][None], np.array([1]), np.array([0.8])),
        Objects(np.zeros((0, 6)), np.zeros(0, np.int64), np.zeros(0)),
    ]
    cells = network._tell(linked, torch.zeros(2, 1, 16, 16, 16))
    found = read_cells(cells, 0, least=0.05)
    np.testing.assert_allclose(found.boxes, box[None])
    assert found.labels.tolist() == [1]
    assert found.known_scores()[0] == pytest.approx(0.8, abs=1e-5)
    assert len(read_cells(cells, 1, least=0.05).labels) == 0


def test_a_slice_is_seen_with_its_neighbours_and_no_others() -> None:
    network = _network().eval()
    image = torch.randn(1, 1, 7, 32, 32)
    changed = image.clone()
    changed[:, :, 6] += 1
    ones, others = (network._look(one) for one in (image, changed))
    for name in ones:
        torch.testing.assert_close(ones[name][:5], others[name][:5])
        assert not torch.allclose(ones[name][5], others[name][5])
        assert not torch.allclose(ones[name][6], others[name][6])


@pytest.mark.parametrize("n_channels", [1, 2])
def test_it_learns_where_bright_balls_are(n_channels: int, tmp_path: Path) -> None:
    """And in which slices they end, by linking; on volumes that it has not seen."""

    def draw(rng: np.random.Generator, n: int) -> tuple[torch.Tensor, list]:
        images = 0.3 * rng.standard_normal((n, n_channels, 12, 32, 32))
        grid = np.stack(np.meshgrid(*map(np.arange, (12, 32, 32)), indexing="ij"), -1)
        targets = []
        for image in images:
            middle = rng.uniform((3, 6, 6), (9, 26, 26))
            ball = ((grid - middle) ** 2 / np.array([9, 25, 25])).sum(-1) < 1
            image[:, ball] += 2
            at = np.argwhere(ball)
            box = torch.tensor([[*(at.min(0) - 0.5), *(at.max(0) + 0.5)]]).float()
            targets.append((box, torch.tensor([0])))
        return torch.from_numpy(images).float(), targets

    network = _network(n_channels=n_channels)
    lesson = Lesson(
        lambda rng, _: (draw(rng, 3), None),
        lambda loss, _: loss,
        lambda _: None,
    )
    settings = Training(
        epochs=1, steps_per_epoch=40, learning_rate=2e-3, warmup_steps=5, ema=0.9, compile=False
    )
    list(fit(network, lesson, settings=settings, folder=tmp_path, key="k"))
    images, targets = draw(np.random.default_rng(99), 8)
    with torch.inference_mode():
        cells = network(images)
    assert isinstance(cells, Cells)
    overlaps = []
    for number, (box, _) in enumerate(targets):
        found = read_cells(cells, number, least=0.05).boxes[:1]
        overlaps.append(overlap_boxes(found, box.double().numpy())[0, 0])
    assert np.mean(overlaps) > 0.6, overlaps


def test_a_run_of_slices_goes_the_same_way(blob_set: Path, tmp_path: Path) -> None:
    """With weights that were learnt elsewhere, and kept norms; small, since it learns for long."""
    weights = tmp_path / "resnet18.pth"
    torch.save(resnet18().state_dict(), weights)
    values = detect_config(blob_set, epochs=1, steps_per_epoch=3).model_dump(mode="json")
    values["model"] |= {"kind": "faster_rcnn", "n_levels": None, "weights": str(weights)}
    values["train"] |= {"norm": "eval"}
    run = create_run(parse_config(values, path="test"), tmp_path / "run")
    prepare(run)
    plan = json.loads((run.folder / "plan.json").read_text())
    assert plan["values"]["slice_axis"] == 0
    assert plan["values"]["features"] == [64, 64, 128]
    assert plan["why"]["features"] == "those of resnet18"
    train(run, 0)
    predict(run, 0)
    evaluate(run)
    metrics = json.loads((run.folder / "results.json").read_text())["metrics"]
    assert metrics["froc"]["all"]["n"] == 8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": {"backbone": "resnet18"}}, "only kind faster_rcnn takes backbone"),
        ({"model": {"weights": "imagenet"}}, "only kind faster_rcnn takes weights"),
        ({"train": {"norm": "eval"}}, "detection starts from none"),
        (
            {"model": {"kind": "faster_rcnn"}, "train": {"hard_negatives": 3}},
            "leave out train.hard_negatives",
        ),
    ],
)
def test_what_a_kind_does_not_take_is_refused(fields: dict, said: str, blob_set: Path) -> None:
    values = detect_config(blob_set).model_dump(mode="json")
    for section, own in fields.items():
        values[section] |= own
    with pytest.raises(ConfigError, match=said):
        parse_config(values, path="test")

"""Faster R-CNN on slices: what it is asked, what it says, and a run of it from scans to results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torchvision.models import resnet18

from pipeline.config import parse_config
from pipeline.detection.evaluate import evaluate
from pipeline.detection.predict import predict
from pipeline.detection.prepare import prepare
from pipeline.detection.train import train
from pipeline.run import create_run
from tests.test_detection import detect_config
from volumetric.boxes import overlap_boxes
from volumetric.errors import ConfigError
from volumetric.inference.detect import find_in_windows, read_cells
from volumetric.learning import Lesson, Training, fit
from volumetric.linking import link_slices
from volumetric.model import load_detector
from volumetric.models.detector import Cells
from volumetric.models.slice_detector import SliceDetector
from volumetric.models.slice_encoder import slice_encoder
from volumetric.plan import choose_slice_axis
from volumetric.spec import DetectorSpec


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


def test_what_lies_between_two_slices_is_asked_for_in_the_nearer() -> None:
    boxes = torch.tensor([[2.1, 4, 4, 2.4, 8, 8], [4.9, 4, 4, 5.4, 8, 8]])
    slices = _network()._cut(boxes, torch.tensor([0, 1]), depth=5)  # the second is cut off
    assert [labels.tolist() for _, labels in slices] == [[], [], [1], [], [2]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_slices_hold_is_told_as_cells_and_read_again(axis: int) -> None:
    network = _network(axis)
    box = {"boxes": torch.tensor([[2.0, 1.0, 6.0, 9.0]]), "labels": torch.tensor([2])}
    nothing = {name: value[:0] for name, value in box.items()} | {"scores": torch.zeros(0)}
    cells = network._tell([[nothing, {**box, "scores": torch.tensor([0.8])}], [nothing, nothing]])
    found = read_cells(cells, 0, least=0.0)
    low, high = [0.5, 1.5], [8.5, 5.5]  # rows and columns; torchvision's begin with columns
    low.insert(axis, 0.5)
    high.insert(axis, 1.5)
    np.testing.assert_allclose(found.boxes, [[*low, *high]])
    assert found.labels.tolist() == [1]
    assert found.known_scores()[0] == pytest.approx(0.8, abs=1e-5)
    assert len(read_cells(cells, 1, least=0.0).labels) == 0


@pytest.mark.parametrize("length", [3, 8, 14, 30])
def test_an_object_is_whole_wherever_windows_cut_it(length: int) -> None:
    """A network that says what is there, slice by slice, in windows of 16 of 40 slices."""
    spec = DetectorSpec(
        kind="faster_rcnn",
        n_channels=1,
        classes=["ball"],
        features=[],
        strides=[],
        kernels=[],
        n_levels=1,
        width=8,
        patch_size=(16, 32, 32),
        spacing_mm=(1, 1, 1),
        intensity={},
    )

    class Oracle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> Cells:
            at = x[0, 0].flatten(1).amax(1).nonzero().flatten().float()
            ends = [
                torch.stack([at + side, *2 * [torch.full_like(at, end)]], 1)
                for side, end in ((-0.5, 11.5), (0.5, 19.5))
            ]
            sure = torch.full((1, len(at)), 2.0)
            boxes = torch.cat(ends, 1)[None]
            return Cells(sure[..., None], sure, boxes, boxes[0, :, :3], boxes[0, :, :3])

    for first in range(40 - length):
        image = torch.zeros(1, 40, 32, 32)
        image[0, first : first + length, 12:20, 12:20] = 1
        found = find_in_windows([Oracle().eval()], image, spec=spec, overlap=0.5, mirror_axes=())
        wanted = [first - 0.5, 11.5, 11.5, first + length - 0.5, 19.5, 19.5]
        np.testing.assert_allclose(found.boxes, [wanted])


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


@pytest.mark.parametrize(("axis", "n_channels"), [(0, 1), (2, 2)])
def test_it_learns_where_bright_balls_are(axis: int, n_channels: int, tmp_path: Path) -> None:
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
            along = [0, 1, 2, 3, 4, 5] if axis == 0 else [1, 2, 0, 4, 5, 3]  # D is the last then
            targets.append((box[:, along], torch.tensor([0])))
        return torch.from_numpy(images).float().movedim(2, 2 + axis), targets

    network = _network(axis, n_channels=n_channels)
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
        found = link_slices(read_cells(cells, number, least=0.05), slice_axis=axis).boxes[:1]
        overlaps.append(overlap_boxes(found, box.double().numpy())[0, 0])
    assert np.mean(overlaps) > 0.6, overlaps


def test_a_run_of_slices_goes_the_same_way(blob_set: Path, tmp_path: Path) -> None:
    """With weights that were learnt elsewhere, and kept norms; small, since it learns for long."""
    weights = tmp_path / "resnet18.pth"
    resnet_file = resnet18().state_dict()
    torch.save(resnet_file, weights)
    settings = {"epochs": 1, "steps_per_epoch": 3, "learning_rate": 1e-9}
    values = detect_config(blob_set, **settings).model_dump(mode="json")
    values["model"] |= {"kind": "faster_rcnn", "n_levels": None, "weights": str(weights)}
    values["train"] |= {"norm": "eval"}
    run = create_run(parse_config(values, path="test"), tmp_path / "run")
    prepare(run)
    plan = json.loads((run.folder / "plan.json").read_text())
    assert plan["values"]["slice_axis"] == 0
    assert plan["values"]["features"] == [64, 64]  # of three resolutions
    assert plan["why"]["features"] == "those of resnet18"
    train(run, 0)
    predict(run, 0)
    evaluate(run)
    results = json.loads((run.folder / "results.json").read_text())
    assert results["metrics"]["froc"]["all"]["n"] == 8
    # Hardly anything was learnt, so that the file's first layer is what the network still has.
    (network,) = load_detector(run.model).networks
    learnt = network.encoder[0][0].weight.mean(1)
    given = resnet_file["conv1.weight"].mean(1)
    torch.testing.assert_close(learnt, given, atol=1e-6, rtol=0)


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Its two stages draw samples themselves, from torch's own generator."""
    box = (torch.tensor([[2.0, 6, 6, 8, 20, 20]]), torch.tensor([1]))

    def draw(rng: np.random.Generator, _: torch.Generator) -> tuple:
        images = torch.from_numpy(rng.standard_normal((1, 1, 10, 32, 32))).float()
        return (images, [box]), None

    lesson = Lesson(draw, lambda loss, _: loss, lambda _: None)
    settings = Training(epochs=2, steps_per_epoch=2, warmup_steps=1, compile=False)
    weights = []
    for folder, stops in (("unbroken", False), ("broken", True)):
        network = _network()
        rows = fit(network, lesson, settings=settings, folder=tmp_path / folder, key="k")
        if stops:
            next(rows)
            rows.close()
            network = _network()
            torch.manual_seed(99)
            rows = fit(network, lesson, settings=settings, folder=tmp_path / folder, key="k")
        list(rows)
        weights.append(network.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_half_precision_leaves_boxes_as_they_are() -> None:
    network = _network().train()
    images = torch.randn(1, 1, 4, 160, 160)
    targets = [(torch.tensor([[0.5, 131.3, 100.2, 2.5, 141.1, 110.7]]), torch.tensor([0]))]
    seen = []
    hook = network.head["objects"].register_forward_pre_hook(lambda _, given: seen.append(given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(images, targets)
    hook.remove()
    ((maps, regions, _, wanted),) = seen
    assert {x.dtype for x in (*maps.values(), *regions)} == {torch.float32}
    assert wanted[1]["boxes"][0].tolist() == pytest.approx([100.7, 131.8, 111.2, 141.6], abs=1e-4)
    assert loss.dtype == torch.float32


def test_it_is_compiled_once_whatever_is_in_the_images() -> None:
    network, counter = _network().train(), CompileCounter()
    compiled = torch.compile(network, backend=counter, dynamic=False)
    for n_objects in range(4):
        boxes = torch.tensor([[1.0, 4, 4, 3, 20, 20]]).repeat(n_objects, 1)
        targets = [(boxes, torch.zeros(n_objects, dtype=torch.long))]
        compiled(torch.randn(1, 1, 4, 32, 32), targets)
        if n_objects == 0:
            first = counter.frame_count
    assert counter.frame_count == first > 0


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [((1, 64, 64), (1, 2, 2), 0), ((64, 64, 1), (1, 1, 1), 2), ((16, 64, 64), (3, 1, 1), 0)],
)
def test_slices_lie_across_what_is_thin(
    shape: tuple[int, ...], spacing: tuple[int, ...], axis: int
) -> None:
    assert choose_slice_axis(shape, spacing) == axis


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

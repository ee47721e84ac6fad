from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.report.drawing import gutter_mm
from pipeline.report.explained import draw_decisive, draw_heat_key, draw_map
from volumetric.errors import GeometryError
from volumetric.figures import HEAT, colour_heat
from volumetric.preprocess import orient
from volumetric.volume import Volume

_LPS = np.array([[0, 0, -1.0, 40], [0, -2.0, 0, 30], [3.0, 0, 0, 5], [0, 0, 0, 1]])
_PEAK = (4, 5, 20)
_NAME = 'tumour <b>"x"</b>'


def _case() -> tuple[Volume, Volume]:
    scan = torch.arange(10 * 16 * 32, dtype=torch.float32).reshape(1, 10, 16, 32)
    heat = torch.zeros(1, 10, 16, 32)
    heat[0][_PEAK] = 1
    return Volume(scan, _LPS), Volume(heat, _LPS)


def _pictures(svg: str) -> list[np.ndarray]:
    files = re.findall(r'data:image/webp;base64,([^"]+)"', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(file)))) for file in files]


def _lightness(colour: tuple[int, int, int]) -> float:
    """L* of CIE 1976 of an sRGB colour."""
    parts = np.array(colour) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    y = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_colours_are_as_even_to_the_eye_as_their_values() -> None:
    steps = np.diff([_lightness(colour) for colour in HEAT])
    assert steps.min() > 7
    assert steps.max() < 14


def test_nothing_is_not_seen_and_more_hides_more() -> None:
    shown = colour_heat(np.array([[0, 0.25, 0.5, 1, 2, np.nan]]))
    assert shown.shape == (1, 6, 4)
    opacity = shown[0, :, 3].astype(int)
    assert opacity[0] == opacity[5] == 0
    assert (np.diff(opacity[:4]) > 0).all()
    assert opacity[3] == opacity[4] == 204
    assert tuple(shown[0, 3, :3]) == HEAT[-1]


def test_map_lies_on_the_slices_through_its_highest_value() -> None:
    picture = draw_map(*_case(), name=_NAME, key="a-1")
    # Turned to canonical axes: H and W run the other way.
    expected = {"Axial": 4, "Coronal": 10, "Sagittal": 11}
    assert {panel.title: int(panel.detail.split()[1]) - 1 for panel in picture.panels} == expected
    heat = orient(_case()[1])
    rows_columns = {
        "Axial": heat.data[0, 4],
        "Coronal": heat.data[0, :, 10],
        "Sagittal": heat.data[0, :, :, 11],
    }
    for panel in picture.panels:
        plane = rows_columns[panel.title].flip(0, 1)
        row, column = (int(n) for n in (plane == 1).nonzero()[0])
        (over,) = _pictures(panel.overlay)
        opacity = over[..., 3].astype(float)
        at = np.array(np.unravel_index(opacity.argmax(), opacity.shape)) + 0.5
        pixel = at / opacity.shape * plane.shape
        assert np.abs(pixel - (row + 0.5, column + 0.5)).max() < 0.6
        assert len(_pictures(panel.image)) == 1
        assert panel.difference is None
        for svg in (panel.image, panel.overlay):
            root = ElementTree.fromstring(svg)
            assert root.get("role") == "img"
            assert "slice" in root.get("aria-label")
        assert f"what spoke for {_NAME}" in ElementTree.fromstring(panel.overlay).get("aria-label")
    assert _NAME in picture.note
    assert len(picture.columns.split()) == 3
    widths = [float(column.removesuffix("fr")) for column in picture.columns.split()]
    total = 32 + 32 + 32  # mm: W, W, then H of 16 voxels of 2 mm
    assert widths == pytest.approx([32 + 2 * gutter_mm(total)] * 3, abs=0.1)


def test_an_empty_map_shows_the_middle_and_says_so() -> None:
    scan, heat = _case()
    picture = draw_map(scan, heat.with_data(torch.zeros_like(heat.data)), name="a", key="k")
    assert [panel.detail for panel in picture.panels] == [
        "slice 6 of 10",
        "slice 9 of 16",
        "slice 17 of 32",
    ]
    assert "Nothing in the scan spoke for a" in picture.note
    assert all(_pictures(panel.overlay)[0].max() >= 0 for panel in picture.panels)


def test_refuses_a_map_of_another_grid() -> None:
    scan, heat = _case()
    moved = _LPS.copy()
    moved[0, 3] += 1
    with pytest.raises(GeometryError, match="do not lie on"):
        draw_map(scan, Volume(heat.data, moved), name="a", key="k")
    with pytest.raises(GeometryError, match="weights for 10 slices"):
        draw_decisive(scan, torch.ones(9) / 9, name="a")


def test_slices_that_counted_most_are_shown() -> None:
    data = torch.zeros(1, 6, 8, 12)
    for index in range(6):
        data[0, index] = index
    seen = Volume(data, np.diag([4.0, 2.0, 1.0, 1.0])[[2, 1, 0, 3]])
    weights = torch.tensor([0.05, 0.3, 0.05, 0.1, 0.45, 0.05])
    heat = torch.zeros(6, 8, 12)
    heat[4, 5:, 8:] = 0.6
    found = draw_decisive(seen, weights, heat, name=_NAME)
    assert [caption for _, caption, _ in found.frames] == [
        "2 · slice 2 · 30%",
        "3 · slice 4 · 10%",
        "1 · slice 5 · 45%",
    ]
    assert all(_NAME in text for _, _, text in found.frames)
    greys, coloured = [], []
    for address, _, _ in found.frames:
        (picture,) = _pictures(f'"{address}"')
        assert picture.shape[1] * 8 * 2 == pytest.approx(picture.shape[0] * 12, rel=0.05)
        greys.append(float(np.median(picture)))
        colours = picture.astype(int)
        coloured.append(np.ptp(colours, axis=-1))
    assert greys == sorted(greys)
    assert len(set(greys)) == 3
    # The last voxels of both axes are the first of the picture, radiological view.
    assert [one.max() > 60 for one in coloured] == [False, False, True]
    rows, columns = (n // 2 for n in coloured[2].shape)
    assert coloured[2][:rows, :columns].max() > 60
    assert coloured[2][rows:, columns:].max() < 40
    root = ElementTree.fromstring(found.chart)
    bars = [one for one in root if one.get("class", "").startswith("slice")]
    heights = np.array([float(bar.get("height")) for bar in bars])
    assert heights / heights.max() == pytest.approx(weights.numpy() / 0.45, abs=0.01)
    styles = [bar.get("class") for bar in bars]
    assert [style == "slice top" for style in styles] == [False, True, False, True, True, False]
    assert [one.text for one in root if one.get("class") == "rank"] == ["2", "3", "1"]
    assert root.get("aria-label") == found.note
    assert "85% of the weight" in found.note


def test_frames_of_a_clip_keep_their_colours_and_time() -> None:
    data = torch.zeros(3, 5, 8, 8, dtype=torch.uint8)
    data[0, 3, :, :4] = 250
    seen = Volume(data, np.diag([0.5, 1, 1, 1]), "clip")
    found = draw_decisive(seen, torch.tensor([0.1, 0.1, 0.1, 0.6, 0.1]), name="a", n_slices=1)
    ((address, caption, _),) = found.frames
    assert caption == "1 · 1.50 s · 60%"
    (picture,) = _pictures(f'"{address}"')
    assert picture[8, 2, 0] > 200
    assert picture[8, -3, 0] < 60
    assert picture[8, 2, 2] < 60
    assert "frame" in found.note


@pytest.mark.parametrize("n_slices", [1, 2, 7, 35, 400])
def test_any_number_of_slices(n_slices: int) -> None:
    seen = Volume(torch.rand(1, n_slices, 4, 4), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    found = draw_decisive(seen, torch.ones(n_slices) / n_slices, name="a")
    assert len(found.frames) == min(3, n_slices)
    root = ElementTree.fromstring(found.chart)
    assert len([one for one in root if one.get("class", "").startswith("slice")]) == n_slices
    assert 1 <= len([one for one in root if one.get("class") == "tick"]) <= 9


def test_key_names_its_ends() -> None:
    root = ElementTree.fromstring(draw_heat_key())
    assert [one.text for one in root.iter("text")] == ["nothing", "most"]
    assert root.get("role") == "img"

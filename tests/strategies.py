"""Hypothesis strategies for geometry."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import strategies as st

from volumetric.volume import Volume

SIGNED_ORDERS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@st.composite
def affines(draw, *, oblique: bool = True) -> np.ndarray:
    """Any of the 48 axis orders, turned by up to 20 degrees if oblique, with spacing and origin."""
    order, signs = draw(st.sampled_from(SIGNED_ORDERS))
    cosines = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
        cosines[row, column] = sign
    if oblique:
        cosines = _turn(draw(st.tuples(*[st.floats(-0.35, 0.35)] * 3))) @ cosines
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = cosines * np.array(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return affine


@st.composite
def volumes(draw, *, oblique: bool = True, largest: int = 9) -> Volume:
    """Small scans whose voxels all differ."""
    shape = draw(st.tuples(*[st.integers(1, largest)] * 3))
    data = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.int32).reshape(1, *shape)
    return Volume(data, draw(affines(oblique=oblique)))


def world(volume: Volume, index: np.ndarray) -> np.ndarray:
    """Positions (n, 3) in mm of voxel indices (n, 3)."""
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def _turn(angles: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from tests.strategies import affines, volumes
from volumetric.errors import GeometryError, VolumetricError
from volumetric.volume import Volume, closest_axes


@given(volumes())
def test_derives_shape_and_spacing(volume: Volume) -> None:
    assert volume.shape == tuple(volume.data.shape[1:])
    one_step = [volume.affine @ np.eye(4)[axis] for axis in range(3)]
    assert volume.spacing == pytest.approx([np.linalg.norm(step[:3]) for step in one_step])


@given(affines())
def test_closest_axes_are_a_permutation(affine: np.ndarray) -> None:
    axes = closest_axes(affine)
    assert {world for world, _ in axes} == {0, 1, 2}
    for column, (world, sign) in enumerate(axes):
        assert np.sign(affine[world, column]) == sign


def test_orientation_letters() -> None:
    # D runs to the feet, H to the back, W to the patient's left.
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-2, 0, 0, 0], [0, 0, 0, 1]], float)
    assert Volume(torch.zeros(1, 2, 3, 4), affine).orientation == "IPL"


def test_affine_cannot_be_changed_in_place() -> None:
    volume = Volume(torch.zeros(1, 2, 2, 2), np.eye(4))
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 3] = 1.0


@pytest.mark.parametrize(
    ("data", "affine", "code"),
    [
        (torch.zeros(2, 2, 2), np.eye(4), "bad-shape"),
        (torch.zeros(1, 0, 2, 2), np.eye(4), "bad-shape"),
        (torch.zeros(1, 2, 2, 2), np.eye(3), "bad-affine"),
        (torch.zeros(1, 2, 2, 2), np.full((4, 4), np.nan), "bad-affine"),
        (torch.zeros(1, 2, 2, 2), np.diag([1.0, 0.0, 1.0, 1.0]), "singular-affine"),
        (torch.zeros(1, 2, 2, 2), np.ones((4, 4)), "singular-affine"),
    ],
)
def test_refuses_what_is_no_volume(data: torch.Tensor, affine: np.ndarray, code: str) -> None:
    with pytest.raises(GeometryError) as caught:
        Volume(data, affine)
    assert caught.value.code == code


def test_other_data_must_fit() -> None:
    volume = Volume(torch.zeros(1, 2, 3, 4), np.eye(4))
    assert volume.with_data(torch.ones(5, 2, 3, 4)).data.shape[0] == 5
    with pytest.raises(GeometryError):
        volume.with_data(torch.ones(1, 2, 3, 5))


def test_an_error_is_one_line_and_survives_pickling() -> None:
    import pickle

    error = GeometryError("a-code", "two\nlines", "Do this", path="x.nii")
    assert str(error) == "x.nii: two lines. Do this. [a-code]"
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, VolumetricError)
    assert (type(again), again.code, again.path) == (GeometryError, "a-code", "x.nii")


def test_every_public_name_is_there() -> None:
    import volumetric

    assert sorted(volumetric._HOMES) == sorted(volumetric.__all__)
    assert all(getattr(volumetric, name) is not None for name in volumetric.__all__)
    with pytest.raises(AttributeError, match="resmaple"):
        volumetric.resmaple  # noqa: B018

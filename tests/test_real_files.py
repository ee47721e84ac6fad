"""Every real file at hand equals what an oracle makes of it, or is refused by name.

What the oracle reads and we refuse is listed with its code: a new needless refusal is a failure.
So is what we read and the oracle does not, and an entry that is no longer true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError

from volumetric import VolumetricError, read_volume
from volumetric.volume import Volume

Grid = tuple[np.ndarray, np.ndarray]  # voxels (D, H, W); centres of the corners in mm, RAS+

_PYDICOM = Path(pydicom.__file__).parent / "data"
_NIBABEL = Path(nibabel.__file__).parent
_SHARED = Path(__file__).parents[2] / "shared" / "data"
_NEAR_MM = 1e-3
_NEUROIMAGING = (".nii", ".nii.gz", ".hdr", ".img", ".mgh", ".mgz")
_SLOW_TO_ORACLE = "SC_rgb_jpeg.dcm"  # it takes SimpleITK 4 s; it has a test of its own

# What the oracle reads and we refuse, by pattern of the name: each for the reason that stands
# above it. There is nothing that we read and the oracle does not.
_REFUSED_OF_PYDICOM = {
    # Secondary captures and RT objects are no slices of a scan.
    "charset_files/chr*.dcm": "no-image-series",
    "test_files/SC_*.dcm": "no-image-series",
    "test_files/GDCMJ2K_TextGBR.dcm": "no-image-series",
    "test_files/JPEG-lossy.dcm": "no-image-series",
    "test_files/JPEG2000.dcm": "no-image-series",
    "test_files/JPEGLSNearLossless_*.dcm": "no-image-series",
    "test_files/JPGExtended.dcm": "no-image-series",
    "test_files/badVR.dcm": "no-image-series",
    "test_files/image_dfl.dcm": "no-image-series",
    "test_files/rtdose*.dcm": "no-image-series",
    # A segmentation
    "test_files/liver*_1frame.dcm": "no-image-series",
    # Scouts
    "test_files/dicomdirtests/98892001/CT2N/*": "no-image-series",
    # Radiographs, ultrasound and photographs: no place in the patient
    "test_files/ExplVR_BigEnd.dcm": "no-geometry",
    "test_files/dicomdirtests/77654033/CR*/*": "no-geometry",
    "test_files/examples_*.dcm": "no-geometry",
}
_REFUSED_OF_NIBABEL = {
    "tests/data/?.dcm": "mosaic",
    "nicom/tests/data/?.dcm": "mosaic",
    "nicom/tests/data/slicethickness_empty_string.dcm": "unproven-spacing",
    # Time points
    "tests/data/example4d.nii.gz": "four-dimensional",
    "tests/data/example_nifti2.nii.gz": "four-dimensional",
    "tests/data/functional.nii": "four-dimensional",
    "tests/data/test.mgz": "four-dimensional",
    # MINC
    "tests/data/*.mnc": "unknown-format",
}
_REFUSED_OF_SHARED = {
    # Colour
    "dicom_series/generic/rgb/*.nii.gz": "voxel-type",
}
_REFUSED_FOLDERS = {
    "dicomdirtests/77654033/CR*": "no-geometry",
    "dicomdirtests/77654033/CT2": "missing-slice",
    "dicomdirtests/98892001/CT2N": "no-image-series",  # scouts
    "dicomdirtests/98892003/MR700": "mixed-orientation",
    "failing/gantrytilting/001": "gantry-tilt",
    "failing/slicecount/001": "unproven-spacing",
    "failing/sliceincrement/001": "missing-slice",
    "failing/sliceincrement/002": "gantry-tilt",
    "generic/rgb/001": "no-image-series",
}


def corners(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    ends = np.array([[*index, 1] for index in product(*((0, n - 1) for n in shape))])
    return (ends @ affine.T)[:, :3]


def as_grid(volume: Volume) -> Grid:
    data = volume.data[0].numpy()
    return data, corners(volume.affine, data.shape)


def ask_simpleitk(files: list[Path]) -> Grid | None:
    """What SimpleITK reads of one file, or of the slices of a series in their order."""
    try:
        image = sitk.ReadImage(str(files[0]) if len(files) == 1 else [str(one) for one in files])
    except RuntimeError:
        return None
    array = sitk.GetArrayFromImage(image)
    affine = np.eye(4)
    if image.GetDimension() == 3:
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
    affine = np.diag([-1, -1, 1, 1]) @ affine[:, [2, 1, 0, 3]]
    return array, corners(affine, array.shape[:3])


def ask_nibabel(file: Path) -> Grid | None:
    try:
        image = nibabel.load(file)
        array, affine = np.asarray(image.dataobj), image.affine
    except (ImageFileError, OSError, ValueError, AttributeError):  # CIFTI lies nowhere
        return None
    if array.size == np.prod(array.shape[:3]):
        array = array.reshape((*array.shape, 1, 1)[:3])
    array = array.transpose(2, 1, 0, *range(3, array.ndim))
    return array, corners(affine[:, [2, 1, 0, 3]], array.shape[:3])


def find_slices(folder: Path) -> list[Path]:
    """The files of a folder's only series in SimpleITK's order; none if there are several."""
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)) if len(series) == 1 else []
    return [Path(one) for one in names]


def ask_oracle(path: Path) -> Grid | None:
    if path.is_dir():
        files = find_slices(path)
        return ask_simpleitk(files) if files else None
    if path.name.lower().endswith(_NEUROIMAGING):
        return ask_nibabel(path)  # ITK turns NaN into zero
    return None if path.name == _SLOW_TO_ORACLE else ask_simpleitk([path])


def compare(ours: Grid, theirs: Grid) -> str:
    """ "equal", be the order of the slices what it may; or how they differ."""
    if ours[0].shape != theirs[0].shape:
        return f"shape {ours[0].shape}, not {theirs[0].shape}"
    for step in (1, -1):
        places = theirs[1].reshape(2, 4, 3)[::step].reshape(8, 3)
        if np.abs(ours[1] - places).max() < _NEAR_MM:
            same = np.allclose(ours[0], theirs[0][::step], rtol=1e-6, atol=0, equal_nan=True)
            return "equal" if same else "other values"
    return f"places differ by {np.abs(ours[1] - theirs[1]).max():.3g} mm"


def judge(path: Path) -> str:
    """ "equal"; the code of a refusal; "neither" if no oracle reads it either; or what is wrong."""
    theirs = ask_oracle(path)
    try:
        volume = read_volume(path)
    except VolumetricError as error:
        return error.code if theirs else "neither"
    return compare(as_grid(volume), theirs) if theirs else "read by no oracle"


def assert_as_listed(root: Path, paths: Iterable[Path], refused: Mapping[str, str]) -> int:
    """Of each path that is not equal or read by neither, the verdict is the one listed."""
    verdicts = {path.relative_to(root).as_posix(): judge(path) for path in paths}
    used = set()
    for name, verdict in verdicts.items():
        pattern = next((one for one in refused if fnmatchcase(name, one)), "")
        assert verdict in ("equal", "neither", refused.get(pattern)), (name, verdict)
        if verdict == refused.get(pattern):
            used.add(pattern)
    stale = {one for one in refused if any(fnmatchcase(name, one) for name in verdicts)} - used
    assert not stale
    return Counter(verdicts.values())["equal"]


def files_below(folder: Path) -> list[Path]:
    return sorted(
        one for one in folder.rglob("*") if one.is_file() and one.suffix not in (".py", ".pyc")
    )


def folders_below(folder: Path) -> list[Path]:
    """Those that hold only files."""
    below = [one for one in folder.rglob("*") if one.is_dir() and one.name != "__pycache__"]
    return sorted(one for one in below if not any(inner.is_dir() for inner in one.iterdir()))


def shared(name: str) -> Path:
    if not (_SHARED / name).is_dir():
        pytest.skip("real data is not beside this checkout")
    return _SHARED / name


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    monkeypatch.setattr(nibabel.imageglobals.logger, "disabled", True)


def test_pydicom_s_own_files() -> None:
    assert assert_as_listed(_PYDICOM, files_below(_PYDICOM), _REFUSED_OF_PYDICOM) >= 35


@pytest.mark.filterwarnings("ignore::Warning")  # nibabel's, on the oddities it tests
def test_nibabel_s_own_files() -> None:
    files = files_below(_NIBABEL / "tests" / "data") + files_below(_NIBABEL / "nicom")
    assert assert_as_listed(_NIBABEL, files, _REFUSED_OF_NIBABEL) >= 5


@pytest.mark.filterwarnings("ignore::Warning")  # of a package that only the demo needs
def test_nilearn_s_own_files() -> None:
    nilearn = pytest.importorskip("nilearn")
    data = Path(nilearn.__file__).parent / "datasets" / "data"
    assert assert_as_listed(data, sorted(data.glob("*.nii.gz")), {}) >= 4


def test_folders_of_pydicom() -> None:
    data = _PYDICOM / "test_files"
    assert assert_as_listed(data, folders_below(data / "dicomdirtests"), _REFUSED_FOLDERS) >= 1


@pytest.mark.parametrize(
    ("name", "n_equal"), [("dicom_series", 12), ("totalsegmentator", 1), ("lidc", 1)]
)
def test_shared_folders(name: str, n_equal: int) -> None:
    data = shared(name)
    folders = [one for one in folders_below(data) if any(one.iterdir())]
    assert assert_as_listed(data, folders, _REFUSED_FOLDERS) == n_equal


@pytest.mark.parametrize("name", ["dicom_series", "totalsegmentator", "lidc"])
def test_shared_files(name: str) -> None:
    files = sorted(shared(name).rglob("*.nii.gz"))
    assert assert_as_listed(_SHARED, files, _REFUSED_OF_SHARED) > 0


def test_shared_slices_by_themselves() -> None:
    """A lone slice states its depth, or is refused: SimpleITK takes 1 mm."""
    data = shared("dicom_series")
    refused = {"generic/rgb/*": "no-image-series", "*": "unproven-spacing"}
    assert assert_as_listed(data, sorted(data.rglob("*.dcm")), refused) == 2  # enhanced
    slices = files_below(shared("totalsegmentator") / "example_ct_dicom")
    assert assert_as_listed(_SHARED, slices, {}) == len(slices) > 0


def test_a_picture_written_otherwise_than_it_says_is_set_apart() -> None:
    """An implicit data set, though its encoding calls for an explicit one: still no slice."""
    path = _PYDICOM / "test_files" / _SLOW_TO_ORACLE
    if not path.exists():
        pytest.skip("this pydicom does not bring it")
    with pytest.raises(VolumetricError, match="1 Secondary Capture") as caught:
        read_volume(path)
    assert caught.value.code == "no-image-series"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda data, places: (data, places), "equal"),
        (lambda data, places: (data[::-1], places.reshape(2, 4, 3)[::-1].reshape(8, 3)), "equal"),
        (lambda data, places: (data[::-1], places), "other values"),
        (lambda data, places: (data + 1, places), "other values"),
        (lambda data, places: (data[1:], places), "shape"),
        (lambda data, places: (data, places + 0.002), "places"),
    ],
)
def test_the_comparison_sees_what_it_must(change, verdict: str) -> None:
    grid = np.arange(24.0).reshape(2, 3, 4), corners(np.eye(4), (2, 3, 4))
    assert compare(grid, change(*grid)).startswith(verdict)

"""DICOM pixels: every encoding against an oracle, every damage refused by name."""

from __future__ import annotations

import random
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import CTImageStorage

from volumetric.errors import UnreadableFileError, VolumetricError
from volumetric.io.dicom.deflate import DEFLATED, inflate
from volumetric.io.dicom.encoding import check_encoding
from volumetric.io.dicom.pixels import read_stored
from volumetric.io.dicom.slices import Encoding, Slice

IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))
JPEG = "1.2.840.10008.1.2.4."
RLE = "1.2.840.10008.1.2.5"
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
DICOM_SERIES = Path(__file__).parents[2] / "shared/data/dicom_series/generic"


def phantom(n_bits=12, *, signed=False, size=(45, 38), seed=0):
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[: size[0], : size[1]] / max(size)
    image = np.sin(7 * row) * np.cos(5 * column) * 0.4 + rng.normal(0, 0.01, size) + 0.5
    image = (image * (2**n_bits - 1)).clip(0, 2**n_bits - 1).astype(np.int64)
    image.flat[:2] = 0, 2**n_bits - 1
    return (image - 2 ** (n_bits - 1) * signed).astype(container(n_bits, signed=signed))


def container(n_bits, *, signed):
    width = 8 if n_bits <= 8 else 16 if n_bits <= 16 else 32
    return np.dtype(f"{'i' if signed else 'u'}{width // 8}")


def raw_bits(image, n_bits):
    unsigned = image.astype(f"u{image.itemsize}")
    return unsigned & unsigned.dtype.type(2**n_bits - 1)


def encode_rle(image, n_bits):
    planes = image.astype(image.dtype.newbyteorder("<")).view("u1").reshape(-1, image.itemsize)
    segments = [
        imagecodecs.packbits_encode(np.ascontiguousarray(planes[:, index]))
        for index in range(image.itemsize - 1, -1, -1)
    ]
    segments = [one + b"\0" * (len(one) % 2) for one in segments]
    starts = 64 + np.cumsum([0, *map(len, segments[:-1])])
    header = np.zeros(16, "<u4")
    header[: len(segments) + 1] = len(segments), *starts
    return header.tobytes() + b"".join(segments)


def encode_lossless(predictor):
    return lambda image, n_bits: imagecodecs.jpeg8_encode(
        raw_bits(image, n_bits), lossless=True, predictor=predictor, bitspersample=n_bits
    )


def encode_j2k(image, n_bits):
    return imagecodecs.jpeg2k_encode(
        image, level=0, codecformat="J2K", reversible=True, bitspersample=n_bits, resolutions=3
    )


def encode_htj2k(image, n_bits):
    return imagecodecs.htj2k_encode(image, reversible=True, resolutions=3)


LOSSLESS = {
    JPEG + "57": encode_lossless(6),
    JPEG + "70": encode_lossless(1),
    JPEG + "80": lambda image, n_bits: imagecodecs.jpegls_encode(
        raw_bits(image, 8 * image.itemsize)
    ),
    JPEG + "90": encode_j2k,
    JPEG + "201": encode_htj2k,
    JPEG + "202": encode_htj2k,
    RLE: encode_rle,
}
LOSSY = {
    JPEG + "50": lambda image: imagecodecs.jpeg8_encode(image, level=95),
    JPEG + "51": lambda image: imagecodecs.jpeg8_encode(image, level=95, bitspersample=12),
    JPEG + "81": lambda image: imagecodecs.jpegls_encode(image, level=3),
    JPEG + "91": lambda image: imagecodecs.jpeg2k_encode(
        image, level=80, codecformat="J2K", reversible=False, resolutions=3
    ),
    JPEG + "203": lambda image: imagecodecs.htj2k_encode(
        image, level=0.0005, reversible=False, resolutions=3
    ),
}
STREAMS = {
    **{syntax: (encode(phantom(12), 12), 12) for syntax, encode in LOSSLESS.items()},
    **{
        syntax: (encode(phantom(8 if syntax == JPEG + "50" else 12)), 12)
        for syntax, encode in LOSSY.items()
    },
}
STREAMS[JPEG + "50"] = (STREAMS[JPEG + "50"][0], 8)


def write(path, syntax, pixels, *, size, n_bits, signed=False, n_frames=1, **tags):
    """A file whose PixelData is `pixels`, encapsulated by the caller where it must be."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(path, {}, bytes(128), meta, syntax == IMPLICIT, syntax != BIG_ENDIAN)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = size
    if n_frames > 1:
        dataset.NumberOfFrames = n_frames
    dataset.BitsAllocated = 8 * container(n_bits, signed=signed).itemsize
    dataset.BitsStored, dataset.HighBit = n_bits, n_bits - 1
    dataset.PixelRepresentation = int(signed)
    if pixels is not None:
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
        dataset["PixelData"].is_undefined_length = syntax not in NATIVE
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return slices(path)


def slices(path):
    """What the header scan makes of a file, as far as pixels are concerned."""
    deflated = DEFLATED.encode() in path.read_bytes()[:2048]
    with BytesIO(inflate(path) if deflated else path.read_bytes()) as stream:
        dataset = dcmread(stream, stop_before_pixels=True)
        head = stream.read(12)
        implicit, little = dataset.original_encoding
        order = "<" if little else ">"
        length = struct.unpack(f"{order}L", head[4:8] if implicit else head[8:])[0] if head else 0
        offset = stream.tell() - 4 * implicit if head else None
    encoding = Encoding(
        transfer_syntax=DEFLATED if deflated else str(dataset.file_meta.TransferSyntaxUID),
        photometric=dataset.PhotometricInterpretation,
        n_samples=dataset.SamplesPerPixel,
        n_frames=int(dataset.get("NumberOfFrames", 1)),
        size=(dataset.Rows, dataset.Columns),
        bits=(dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit),
        signed=bool(dataset.PixelRepresentation),
        offset=offset,
        length=None if length == 0xFFFFFFFF else length,
    )
    nothing = dict.fromkeys(Slice.__dataclass_fields__)
    return [
        Slice(**(nothing | {"path": path, "frame": frame, "encoding": encoding}))
        for frame in range(encoding.n_frames)
    ]


def write_stream(path, syntax, stream, *, n_bits=12, size=(45, 38), signed=False, **tags):
    pixels = encapsulate([stream], has_bot=False)
    return write(path, syntax, pixels, size=size, n_bits=n_bits, signed=signed, **tags)


def refusal(files):
    with pytest.raises(VolumetricError) as caught:
        read_stored(files)
    assert caught.value.path == str(files[0].path)
    return caught.value.code


def test_native_values_are_those_written_in_every_byte_order_and_depth(tmp_path):
    for syntax in NATIVE:
        for n_bits, signed in ((8, 0), (8, 1), (12, 0), (12, 1), (16, 0), (16, 1), (32, 1)):
            images = np.stack([phantom(n_bits, signed=bool(signed), seed=one) for one in range(3)])
            order = ">" if syntax == BIG_ENDIAN else "<"
            pixels = images.astype(images.dtype.newbyteorder(order)).tobytes()
            files = write(
                tmp_path / "one.dcm", syntax, pixels + b"\0" * (len(pixels) % 2),
                size=images.shape[1:], n_bits=n_bits, signed=bool(signed), n_frames=3,
            )  # fmt: skip
            stored = read_stored(files[::-1])
            assert all(one.dtype == images.dtype for one in stored)
            np.testing.assert_array_equal(stored, images[::-1], err_msg=f"{syntax} {n_bits}")


@given(n_bits=st.integers(1, 32), signed=st.booleans(), big=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_unused_bits_never_reach_a_value(tmp_path_factory, n_bits, signed, big, seed):
    dtype = container(n_bits, signed=signed)
    rng = np.random.default_rng(seed)
    low, high = (-(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1) if signed else (0, 2**n_bits - 1)
    image = rng.integers(low, high, (5, 4), endpoint=True).astype(dtype)
    junk = rng.integers(0, 2**32, (5, 4)).astype(np.uint64) << np.uint64(n_bits)
    bits = raw_bits(image, n_bits).astype(np.uint64) | junk
    packed = bits.astype(f"u{dtype.itemsize}").astype(f"{'>' if big else '<'}u{dtype.itemsize}")
    path = tmp_path_factory.mktemp("bits") / "one.dcm"
    syntax = BIG_ENDIAN if big else EXPLICIT
    files = write(path, syntax, packed.tobytes(), size=(5, 4), n_bits=n_bits, signed=signed)
    np.testing.assert_array_equal(read_stored(files)[0], image)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("n_bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_values_are_exact_and_those_of_simpleitk(tmp_path, syntax, n_bits, signed):
    image = phantom(n_bits, signed=signed)
    path = tmp_path / "one.dcm"
    files = write_stream(
        path, syntax, LOSSLESS[syntax](image, n_bits), n_bits=n_bits, signed=signed
    )
    (stored,) = read_stored(files)
    assert stored.dtype == image.dtype
    np.testing.assert_array_equal(stored, image)
    by_gdcm = not syntax.startswith(JPEG + "20")
    if by_gdcm:
        np.testing.assert_array_equal(stored, sitk.GetArrayFromImage(sitk.ReadImage(path))[0])


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("n_bits", [7, 8, 10, 12, 16])
def test_all_predictors_of_lossless_jpeg(tmp_path, predictor, n_bits):
    image = phantom(n_bits, signed=True)
    stream = encode_lossless(predictor)(image, n_bits)
    files = write_stream(tmp_path / "one.dcm", JPEG + "57", stream, n_bits=n_bits, signed=True)
    np.testing.assert_array_equal(read_stored(files)[0], image)


@pytest.mark.parametrize(("syntax", "tolerance"), list(zip(LOSSY, (6, 80, 3, 80, 80), strict=True)))
def test_lossy_values_are_near_and_those_of_simpleitk(tmp_path, syntax, tolerance):
    stream, n_bits = STREAMS[syntax]
    image = phantom(n_bits)
    files = write_stream(tmp_path / "one.dcm", syntax, stream, n_bits=n_bits)
    (stored,) = read_stored(files)
    assert np.abs(stored.astype(int) - image).max() <= tolerance
    if syntax != JPEG + "203":
        oracle = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "one.dcm"))[0]
        assert np.abs(stored.astype(int) - oracle).max() <= 1


def test_lossy_values_that_overshoot_stay_at_the_end_of_the_range(tmp_path):
    image = phantom(12, signed=True)
    image[10:30, 5:30] = -2051  # as a lossy encoder makes of -2048
    stream = encode_j2k(image, 16)
    files = write_stream(tmp_path / "one.dcm", JPEG + "91", stream, n_bits=12, signed=True)
    np.testing.assert_array_equal(read_stored(files)[0], np.maximum(image, -2048))


REAL = ["693_J2KI", "J2K_pixelrep_mismatch", "JPEG2000",
        "JPEG-lossy", "JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "JPGExtended",
        "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless", "image_dfl", "examples_overlay", "rtdose_rle"]  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_files_of_pydicom_agree_with_simpleitk(name):
    path = Path(get_testdata_file(f"{name}.dcm", download=False))
    image = sitk.ReadImage(path)
    values = np.squeeze(sitk.GetArrayFromImage(image)).astype(float)
    dataset = dcmread(path, stop_before_pixels=True)
    slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
    np.testing.assert_allclose(
        np.squeeze(read_stored(slices(path))) * slope + intercept, values, rtol=1e-6
    )


def test_a_delimiter_within_a_fragment_ends_nothing(tmp_path):
    stream = STREAMS[JPEG + "70"][0]
    comment = b"\xff\xfe\0\x0a\xfe\xff\xdd\xe0\0\0\0\0"
    files = write_stream(tmp_path / "one.dcm", JPEG + "70", stream[:2] + comment + stream[2:])
    np.testing.assert_array_equal(read_stored(files)[0], phantom())


@pytest.mark.skipif(not DICOM_SERIES.is_dir(), reason="the shared series are not there")
@pytest.mark.parametrize("folder", ["compressed", "compressed_j2k", "compressed_jpeg",
                                    "compressed_jpegls", "compressed_rle"])  # fmt: skip
def test_real_compressed_series_agree_with_simpleitk(folder):
    paths = sorted((DICOM_SERIES / folder).rglob("*.dcm"))
    stored = read_stored([one for path in paths for one in slices(path)])
    for values, path in zip(stored, paths, strict=True):
        np.testing.assert_array_equal(values, sitk.GetArrayFromImage(sitk.ReadImage(path))[0])


@pytest.mark.parametrize("tables", ["none", "basic", "extended", "zero"])
@pytest.mark.parametrize("syntax", [RLE, JPEG + "70", JPEG + "80", JPEG + "90", JPEG + "201"])
def test_frames_are_found_whatever_the_tables_say(tmp_path, syntax, tables):
    images = [phantom(seed=one, size=(20, 23)) for one in range(40)]
    streams = [LOSSLESS[syntax](image, 12) for image in images]
    extended = {}
    if tables == "extended":
        pixels, table, lengths = encapsulate_extended(streams)
        extended = {"ExtendedOffsetTable": table, "ExtendedOffsetTableLengths": lengths}
    else:
        pixels = encapsulate(streams, has_bot=tables != "none")
    if tables == "zero":
        pixels = pixels[:8] + bytes(4 * len(images)) + pixels[8 + 4 * len(images) :]
    path = tmp_path / "one.dcm"
    files = write(path, syntax, pixels, size=(20, 23), n_bits=12, n_frames=40, **extended)
    order = np.random.default_rng(0).permutation(40)
    stored = read_stored([files[index] for index in order])
    np.testing.assert_array_equal(stored, [images[index] for index in order])


@pytest.mark.parametrize("syntax", [JPEG + "70", JPEG + "80", JPEG + "90", JPEG + "201"])
@pytest.mark.parametrize("tables", [True, False])
def test_frames_of_several_fragments(tmp_path, syntax, tables):
    images = [phantom(seed=one) for one in range(5)]
    streams = [LOSSLESS[syntax](image, 12) for image in images]
    pixels = encapsulate(streams, fragments_per_frame=3, has_bot=tables)
    path = tmp_path / "one.dcm"
    files = write(path, syntax, pixels, size=(45, 38), n_bits=12, n_frames=5)
    np.testing.assert_array_equal(read_stored(files), images)


def test_many_files_of_many_kinds_come_back_in_order(tmp_path):
    files, images = [], []
    for index, (syntax, encode) in enumerate(5 * list(LOSSLESS.items())):
        image = phantom(seed=index, size=(20 + index, 30), signed=bool(index % 2))
        path = tmp_path / f"{index}.dcm"
        tags = {"size": image.shape, "signed": bool(index % 2)}
        files += write_stream(path, syntax, encode(image, 12), **tags)
        images.append(image)
    for stored, image in zip(read_stored(files), images, strict=True):
        np.testing.assert_array_equal(stored, image)


@pytest.mark.parametrize(("header", "stream"), [(True, False), (False, True)])
def test_the_sign_of_jpeg_2000_yields_to_that_of_the_header(tmp_path, header, stream):
    image = phantom(13, signed=header)
    bits = raw_bits(image, 13)
    sign = np.where(bits >= 2**12, 2**13, 0) * stream
    coded = (bits.astype(int) - sign).astype("i2" if stream else "u2")
    path = tmp_path / "one.dcm"
    files = write_stream(path, JPEG + "90", encode_j2k(coded, 13), n_bits=13, signed=header)
    np.testing.assert_array_equal(read_stored(files)[0], image)
    narrower = encode_j2k(coded, 13)
    assert refusal(write_stream(path, JPEG + "90", narrower, n_bits=14, signed=header)) == (
        "bad-pixels"
    )


REFUSED = {
    "bad-header": {"transfer_syntax": None},
    "no-decoder": {"transfer_syntax": JPEG + "53"},
    "no-pixels": {"offset": None},
    "bad-pixels": {"length": 45 * 38 * 2 - 2},
}
LAYOUTS = [(16, 12, 15), (16, 17, 16), (1, 1, 0), (24, 24, 23), (12, 12, 11), (16, 0, -1)]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        *REFUSED.items(),
        ("no-decoder", {"transfer_syntax": "1.2.3"}),
        ("color", {"n_samples": 3}),
        ("color", {"photometric": "PALETTE COLOR"}),
        *(("pixel-layout", {"bits": bits}) for bits in LAYOUTS),
        ("bad-pixels", {"length": 45 * 38 * 2 + 2}),
        ("bad-pixels", {"length": None}),
        ("bad-pixels", {"transfer_syntax": RLE}),
        ("bad-pixels", {"n_frames": 2}),
        ("bad-pixels", {"n_frames": 0}),
        ("bad-pixels", {"size": (0, 38)}),
        ("bad-pixels", {"size": (65535, 65535), "length": 65535**2 * 2}),
        ("bad-pixels", {"offset": 10**9}),
    ],
)
def test_what_headers_alone_refuse(tmp_path, code, changes):
    pixels = phantom().tobytes()
    (one,) = write(tmp_path / "one.dcm", EXPLICIT, pixels, size=(45, 38), n_bits=12)
    check_encoding(one)
    with pytest.raises(VolumetricError) as caught:
        check_encoding(replace(one, encoding=replace(one.encoding, **changes)))
    assert caught.value.code == code


def test_bytes_in_big_endian_words_are_refused(tmp_path):
    pixels = phantom(8, size=(4, 4)).tobytes()
    (one,) = write(tmp_path / "one.dcm", BIG_ENDIAN, pixels, size=(4, 4), n_bits=8)
    check_encoding(one)
    content = bytearray(one.path.read_bytes())
    content[one.encoding.offset - 8 : one.encoding.offset - 6] = b"OW"
    one.path.write_bytes(content)
    assert refusal([one]) == "pixel-layout"


def test_a_file_cut_or_gone_is_refused(tmp_path):
    path = tmp_path / "one.dcm"
    files = write(path, EXPLICIT, phantom().tobytes(), size=(45, 38), n_bits=12)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(files) == "bad-pixels"
    path.unlink()
    assert refusal(files) == "unreadable-file"


@pytest.mark.parametrize("syntax", STREAMS)
def test_streams_of_another_image_are_refused(tmp_path, syntax):
    stream, n_bits = STREAMS[syntax]
    path = tmp_path / "one.dcm"
    for tags in ({"size": (38, 45)}, {"size": (45, 37)}, {"size": (90, 38)}, {"n_bits": 7}):
        # RLE knows no size, only a number of pixels; and 7 bits fit where 8 do.
        if (syntax == RLE and tags == {"size": (38, 45)}) or n_bits - tags.get("n_bits", 0) == 1:
            continue
        files = write_stream(path, syntax, stream, **({"n_bits": n_bits} | tags))
        assert refusal(files) == "bad-pixels", tags
    two = encapsulate([stream, stream])
    assert refusal(write(path, syntax, two, size=(45, 38), n_bits=n_bits)) == "bad-pixels"
    files = write(path, syntax, two, size=(45, 38), n_bits=n_bits, n_frames=3)
    assert refusal(files) == "bad-pixels"


@pytest.mark.parametrize("syntax", STREAMS)
def test_a_cut_stream_is_always_refused(tmp_path, syntax):
    stream, n_bits = STREAMS[syntax]
    path = tmp_path / "one.dcm"
    cuts = {*range(4, len(stream), max(1, len(stream) // 40)), *range(len(stream) - 9, len(stream))}
    for cut in cuts:
        if syntax == RLE and cut % 2:
            continue  # the byte of padding would take the place of the one cut
        files = write_stream(path, syntax, stream[:cut], n_bits=n_bits)
        assert refusal(files) == "bad-pixels", cut


@pytest.mark.parametrize("syntax", [one for one in STREAMS if one != RLE])
def test_a_stream_that_lost_its_middle_is_refused_though_its_end_is_there(tmp_path, syntax):
    stream, n_bits = STREAMS[syntax]
    for cut in range(len(stream) // 2, len(stream) - 12, max(1, len(stream) // 40)):
        files = write_stream(
            tmp_path / "one.dcm", syntax, stream[:cut] + b"\xff\xd9", n_bits=n_bits
        )
        assert refusal(files) == "bad-pixels", cut


@pytest.mark.parametrize("syntax", [JPEG + "50", JPEG + "51", JPEG + "57", JPEG + "70"])
def test_a_jpeg_that_goes_on_behind_its_image_is_refused(tmp_path, syntax):
    stream, n_bits = STREAMS[syntax]
    more = stream[:-2] + 50 * b"\x12\x34\x56\x78" + b"\xff\xd9"
    assert refusal(write_stream(tmp_path / "one.dcm", syntax, more, n_bits=n_bits)) == "bad-pixels"


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEG + "50"])
def test_blank_images_are_no_bombs(tmp_path, syntax, value):
    image = np.full((512, 512), value, np.uint8)
    stream = LOSSLESS[syntax](image, 8) if syntax in LOSSLESS else LOSSY[syntax](image)
    files = write_stream(tmp_path / "one.dcm", syntax, stream, n_bits=8, size=(512, 512))
    assert (read_stored(files)[0] == value).all()


@pytest.mark.parametrize("syntax", STREAMS)
def test_damaged_files_give_typed_errors_or_images(tmp_path, syntax):
    stream, n_bits = STREAMS[syntax]
    (one,) = write_stream(tmp_path / "one.dcm", syntax, stream, n_bits=n_bits)
    content = one.path.read_bytes()
    draw = random.Random(syntax)
    for _ in range(150):
        damaged = bytearray(content)
        first = one.encoding.offset or 0
        last = len(content) if draw.random() < 0.5 else min(len(content), first + 200)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(first, last)] = draw.randrange(256)
        one.path.write_bytes(damaged)
        began = time.perf_counter()
        with suppress(UnreadableFileError):
            (stored,) = read_stored([one])
            assert stored.shape == (45, 38)
            assert stored.max() < 2**n_bits
        assert time.perf_counter() - began < 2


def test_bombs_are_refused_before_anything_is_allocated(tmp_path):
    path = tmp_path / "one.dcm"
    stream = STREAMS[JPEG + "90"][0]
    began = time.perf_counter()
    large = {"size": (60000, 60000)}
    assert refusal(write_stream(path, JPEG + "90", stream, **large)) == "decompression-bomb"
    many = write(path, RLE, encapsulate([STREAMS[RLE][0]]), size=(512, 512), n_bits=12)[0]
    many = replace(many, encoding=replace(many.encoding, n_frames=10**9))
    assert refusal([many]) == "decompression-bomb"
    wide = write_stream(path, JPEG + "90", stream, size=(5000, 5000))[0]
    together = []
    for index in range(10):
        copy = tmp_path / f"{index}.dcm"
        copy.write_bytes(path.read_bytes())
        together.append(replace(wide, path=copy))
    assert refusal(together) == "decompression-bomb"
    assert time.perf_counter() - began < 2


def test_fragments_without_end_are_refused(tmp_path):
    path = tmp_path / "one.dcm"
    items = encapsulate([STREAMS[RLE][0]]) + 300_000 * b"\xfe\xff\x00\xe0\0\0\0\0"
    began = time.perf_counter()
    assert refusal(write(path, RLE, items, size=(45, 38), n_bits=12)) == "bad-pixels"
    assert time.perf_counter() - began < 2


def test_deflated_files_are_bounded_and_whole(tmp_path):
    path = tmp_path / "one.dcm"
    (one,) = write(path, DEFLATED, phantom().tobytes(), size=(45, 38), n_bits=12)
    content = path.read_bytes()
    np.testing.assert_array_equal(read_stored([one])[0], phantom())
    for damaged, code in ((content[:-30], "bad-header"), (content[:600], "bad-header")):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableFileError) as caught:
            inflate(path)
        assert caught.value.code == code
        assert refusal([one]) == code
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    path.write_bytes(content[: content.index(DEFLATED.encode()) + 22] + bomb)
    began = time.perf_counter()
    with pytest.raises(UnreadableFileError) as caught:
        inflate(path)
    assert caught.value.code == "decompression-bomb"
    assert time.perf_counter() - began < 2


def test_no_refusal_names_a_person(tmp_path):
    name = "Doe^Jane"
    files = write_stream(
        tmp_path / "one.dcm", JPEG + "90", STREAMS[JPEG + "90"][0][:500], PatientName=name
    )
    with pytest.raises(UnreadableFileError) as caught:
        read_stored(files)
    assert "Jane" not in str(caught.value)

"""Videos that every browser plays."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import torch

from volumetric.errors import ConfigError, OutputError


def write_video(
    path: Path | str, frames: Iterable[torch.Tensor], *, rate: float, crf: int = 23
) -> None:
    """Write RGB frames, each uint8 (H, W, 3), as H.264 in .mp4 at `rate` frames a second.

    Odd sides are padded by repeating their last line. `crf` is x264's quality: lower is better,
    18 is hardly told from the source. Written whole or not at all; one frame is held at a time.

    Raises:
        ConfigError: a rate that is none, no frames, or frames of another shape or dtype.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if not 0 < rate <= 1000:
        raise ConfigError("bad-rate", f"cannot write {rate} frames a second", "Give 0 to 1000")
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(partial, frames, Fraction(rate).limit_denominator(1001), crf)
        partial.replace(path)
    except (OSError, av.error.FFmpegError) as error:
        raise OutputError(
            "unwritable", f"cannot be written ({error})", "Check folder and free space", path=path
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: Path, frames: Iterable[torch.Tensor], rate: Fraction, crf: int) -> None:
    images = iter(frames)
    first = next(images, None)
    if first is None:
        raise ConfigError("no-frames", "there are no frames to write", "Give at least one")
    shape = first.shape
    options = {"movflags": "+faststart"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.height, stream.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
        stream.pix_fmt = "yuv420p"
        image: torch.Tensor | None = first
        while image is not None:
            container.mux(stream.encode(_as_frame(image, shape)))
            image = next(images, None)
        container.mux(stream.encode())


def _as_frame(image: torch.Tensor, shape: torch.Size) -> av.VideoFrame:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape != shape or shape[2] != 3:
        raise ConfigError(
            "bad-frame",
            f"a frame is {image.dtype} {tuple(image.shape)}, not uint8 {(*shape[:2], 3)}",
            "Give frames of one size as uint8 (H, W, 3)",
        )
    pixels = image.cpu().numpy()
    pad = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(pixels, pad, mode="edge")))

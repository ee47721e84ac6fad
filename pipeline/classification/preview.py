"""Preview: frames with what the model says drawn into them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from volumetric.inference.timeline import Timeline
from volumetric.volume import Volume


def draw_preview(
    chunk: Volume, timeline: Timeline, *, classes: Sequence[str]
) -> Iterator[NDArray[np.uint8]]:
    """Frames (H, W, 3) of a clip, the most probable class and its probability in the corner."""
    start_s, spacing_s = float(chunk.affine[0, 3]), chunk.spacing[0]
    for number in range(chunk.shape[0]):
        time_s = start_s + number * spacing_s
        values = [
            float(np.interp(time_s, timeline.times_s, column))
            for column in timeline.probabilities.T
        ]
        best = int(np.argmax(values))
        text = f"{classes[best]}  {100 * values[best]:.0f} %   {time_s:.1f} s"
        frame = chunk.data[:, number].permute(1, 2, 0).contiguous().numpy()
        yield _with_text(frame, text, share=values[best])


def _with_text(frame: NDArray[np.uint8], text: str, *, share: float) -> NDArray[np.uint8]:
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture, "RGBA")
    height = max(9, round(picture.height / 14))
    font: Any = ImageFont.load_default(height)
    # Narrower letters rather than a text that leaves the picture.
    while height > 6 and draw.textlength(text, font=font) > picture.width - 8:
        height -= 1
        font = ImageFont.load_default(height)
    bottom = height + 8
    draw.rectangle((0, 0, picture.width, bottom), fill=(0, 0, 0, 150))
    draw.rectangle((0, bottom - 2, round(picture.width * share), bottom), fill=(90, 180, 255, 255))
    draw.text((4, 2), text, fill=(255, 255, 255, 255), font=font)
    return np.array(picture)

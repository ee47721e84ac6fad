"""Augmentation of a batch of clips on its device: parameters are sampled, then applied.

Whatever is done to a clip is done to all its frames alike; time is never reversed. Crop, scale
and mirror are two matrix products, all changes of colour one: nothing loops over frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from volumetric.errors import ConfigError

_FRACTIONS = ("p_flip", "p_flip_vertical", "brightness", "contrast", "saturation", "p_erase")


@dataclass(frozen=True)
class ClipAugmentation:
    """How often and how far clips are changed.

    Attributes:
        scale: smallest and largest area of the crop, as a fraction of the frame's.
        aspect: narrowest and widest crop, width over height.
        p_flip: probability of mirroring left and right. 0 where they carry a meaning.
        p_flip_vertical: of mirroring up and down: for cameras that look straight down.
        brightness: largest relative change, e.g. 0.2 for factors from 0.8 to 1.2.
        contrast: the same, about the clip's mean grey.
        saturation: the same, about each voxel's grey.
        p_erase: probability that a rectangle of 2 to 20 % of the frame is painted over.
        mixup_alpha: both parameters of mixup's beta distribution; 0 turns mixup off.
        cutmix_alpha: the same for cutmix. With both on, each clip gets either.
        jitter: how much slower or faster clips run, or how much of their time is left out.

    Raises:
        ConfigError: a range turned round, or a number that means nothing.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    p_flip: float = 0.5
    p_flip_vertical: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    p_erase: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        sound = {
            "scale": 0 < self.scale[0] <= self.scale[1] <= 1,
            "aspect": 0 < self.aspect[0] <= self.aspect[1],
            **{name: 0 <= getattr(self, name) <= 1 for name in _FRACTIONS},
            **{name: getattr(self, name) >= 0 for name in ("mixup_alpha", "cutmix_alpha")},
        }
        for name, fits in sound.items():
            if not fits:
                raise ConfigError(
                    "bad-augmentation",
                    f"{name} is {getattr(self, name)}",
                    "Give probabilities and strengths from 0 to 1, and ranges from low to high",
                    path=name,
                )


@dataclass(frozen=True, eq=False)
class ClipChanges:
    """What is done to each clip of a batch. All tensors lie on the batch's device.

    Attributes:
        boxes: (B, 4) int64 top, left, height, width of the crop, in pixels.
        flip, flip_vertical: (B,) bool.
        brightness, contrast, saturation: (B,) factors.
        erased: (B, 4) top, left, height, width in fractions of the result; height 0 for none.
    """

    boxes: torch.Tensor
    flip: torch.Tensor
    flip_vertical: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    erased: torch.Tensor


@dataclass(frozen=True, eq=False)
class Mix:
    """Which clip is mixed into each clip of a batch, and how.

    Attributes:
        partner: (B,) int64 index of the other clip.
        share: (B,) float32, how much of a clip stays where it is blended; 1 where it is cut.
        pasted: (B, 4) top, left, height, width of what is pasted, in fractions of the frame.
    """

    partner: torch.Tensor
    share: torch.Tensor
    pasted: torch.Tensor


def sample_changes(
    clips: torch.Tensor, generator: torch.Generator, *, settings: ClipAugmentation
) -> ClipChanges:
    """Changes for clips (B, C, T, H, W), sampled on the generator's device, which is theirs."""
    batch, (height, width) = len(clips), clips.shape[3:]
    area = _uniform(batch, generator, settings.scale) * (height * width)
    low, high = (float(torch.tensor(limit).log()) for limit in settings.aspect)
    aspect = _uniform(batch, generator, (low, high)).exp()
    # Clipped to the frame, as a crop of the whole area at another aspect does not fit in it.
    crop_height = (area / aspect).sqrt().round().clamp(1, height)
    crop_width = (area * aspect).sqrt().round().clamp(1, width)
    top = (_uniform(batch, generator) * (height - crop_height)).round()
    left = (_uniform(batch, generator) * (width - crop_width)).round()
    brightness, contrast, saturation = (
        _uniform(batch, generator, (1 - strength, 1 + strength))
        for strength in (settings.brightness, settings.contrast, settings.saturation)
    )
    flip = _uniform(batch, generator) < settings.p_flip
    flip_vertical = torch.zeros_like(flip)
    if settings.p_flip_vertical:
        flip_vertical = _uniform(batch, generator) < settings.p_flip_vertical
    erased = _rectangles(_uniform(batch, generator, (0.02, 0.2)), generator, inside=True)
    erased = erased * (_uniform(batch, generator) < settings.p_erase)[:, None]
    boxes = torch.stack([top, left, crop_height, crop_width], 1).to(torch.int64)
    return ClipChanges(boxes, flip, flip_vertical, brightness, contrast, saturation, erased)


def augment_clips(
    clips: torch.Tensor, changes: ClipChanges, *, size: tuple[int, int]
) -> torch.Tensor:
    """Changed clips (B, C, T, *size) float32, from 0 to 255, of clips (B, C, T, H, W) uint8.

    Crops are scaled linearly, over wider windows where they shrink (antialiased). What is erased
    becomes the clip's mean colour. Saturation leaves clips alone that are not of three channels.
    """
    flip = torch.stack([changes.flip_vertical, changes.flip], 1)
    x = crop_clips(clips, changes.boxes, size=size, flip=flip)
    x = _change_colour(x, changes)
    inside = _inside(changes.erased, size)[:, None, None]
    return torch.where(inside, x.mean((2, 3, 4), keepdim=True), x)


def crop_clips(
    clips: torch.Tensor,
    boxes: torch.Tensor,
    *,
    size: tuple[int, int],
    flip: torch.Tensor | None = None,
) -> torch.Tensor:
    """Clips (B, C, T, *size) float32, from 0 to 255: one box (B, 4) of each clip, scaled.

    Boxes are top, left, height and width in pixels; `flip` (B, 2) says which are
    turned upside down, and which mirrored.
    """
    height, width = clips.shape[3:]
    box = boxes.to(torch.float32)
    vertical = _resize_matrix(box[:, 0], box[:, 2], n_from=height, n_to=size[0])
    horizontal = _resize_matrix(box[:, 1], box[:, 3], n_from=width, n_to=size[1])
    if flip is not None:
        turned, mirrored = flip[:, 0, None, None], flip[:, 1, None, None]
        vertical = torch.where(turned, vertical.flip(1), vertical)
        horizontal = torch.where(mirrored, horizontal.flip(1), horizontal)
    x = clips.to(torch.float32)
    return vertical[:, None, None] @ x @ horizontal[:, None, None].transpose(3, 4)


def sample_mix(batch: int, generator: torch.Generator, *, settings: ClipAugmentation) -> Mix | None:
    """How a batch is mixed; None where neither mixup nor cutmix is on.

    Beta distributed numbers are the distribution's inverse at uniform ones, exactly.
    """
    alphas = (settings.mixup_alpha, settings.cutmix_alpha)
    if not any(alphas):
        return None
    from scipy.special import betaincinv

    partner = torch.randperm(batch, generator=generator, device=generator.device)
    p_cut = 0.5 if all(alphas) else float(alphas[1] > 0)
    cut = _uniform(batch, generator) < p_cut
    at = _uniform(batch, generator).cpu().to(torch.float64).numpy()
    shares = [
        torch.as_tensor(betaincinv(a or 1, a or 1, at), dtype=torch.float32).to(partner.device)
        for a in alphas
    ]
    pasted = _rectangles(1 - shares[1], generator, inside=False) * cut[:, None]
    return Mix(partner, torch.where(cut, torch.ones_like(shares[0]), shares[0]), pasted)


def mix_clips(
    clips: torch.Tensor, labels: torch.Tensor, mix: Mix | None, *, n_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixed clips, and soft labels (B, n_classes) float32 in the proportion of what is seen.

    Mixup (Zhang 2018) blends two clips; cutmix (Yun 2019) pastes one rectangle of all frames.
    Labels are classes (B,), or already soft or several a clip (B, n_classes).
    """
    soft = (labels if labels.ndim == 2 else F.one_hot(labels, n_classes)).to(torch.float32)
    if mix is None:
        return clips, soft
    inside = _inside(mix.pasted, (clips.shape[3], clips.shape[4]))
    # The label follows the pixels that were pasted, not the area that was meant.
    own = mix.share * (1 - inside.to(torch.float32).mean((1, 2)))
    share = mix.share[:, None, None, None, None]
    other = clips[mix.partner]
    mixed = torch.where(inside[:, None, None], other, share * clips + (1 - share) * other)
    return mixed, own[:, None] * soft + (1 - own[:, None]) * soft[mix.partner]


def _change_colour(x: torch.Tensor, changes: ClipChanges) -> torch.Tensor:
    """Brightness, saturation and contrast as one matrix a clip, about its mean grey."""
    batch, channels = x.shape[:2]
    weights = (0.299, 0.587, 0.114) if channels == 3 else (1 / channels,) * channels
    grey = torch.tensor(weights, device=x.device)
    saturation = changes.saturation if channels == 3 else torch.ones_like(changes.saturation)
    saturation = saturation[:, None, None]
    matrix = saturation * torch.eye(channels, device=x.device) + (1 - saturation) * grey
    matrix = matrix * (changes.brightness * changes.contrast)[:, None, None]
    level = (x.mean((2, 3, 4)) @ grey) * changes.brightness * (1 - changes.contrast)
    flat = torch.baddbmm(level[:, None, None].expand(batch, channels, 1), matrix, x.flatten(2))
    return flat.clamp(0, 255).view_as(x)


def _resize_matrix(
    start: torch.Tensor, extent: torch.Tensor, *, n_from: int, n_to: int
) -> torch.Tensor:
    """Weights (B, n_to, n_from) that scale the pixels from `start` on, `extent` of them, to n_to.

    A triangle as wide as the step between new pixels, at least one old pixel, cut at the crop.
    """
    start, extent = start[:, None], extent[:, None]
    step = extent / n_to
    centre = start + (torch.arange(n_to, device=start.device) + 0.5) * step - 0.5
    old = torch.arange(n_from, device=start.device, dtype=torch.float32)
    width = step.clamp_min(1)[..., None]
    within = (old >= start) & (old < start + extent)
    weight = (1 - (old - centre[..., None]).abs() / width).clamp_min(0) * within[:, None]
    return weight / weight.sum(2, keepdim=True)


def _rectangles(area: torch.Tensor, generator: torch.Generator, *, inside: bool) -> torch.Tensor:
    """Rectangles (B, 4) of these areas in fractions, wholly inside, or with their centre inside.

    Those are of random aspect, these of the frame's own, as erasing and cutmix have them.
    """
    place = torch.stack([_uniform(len(area), generator) for _ in range(2)], 1)
    stretch = _uniform(len(area), generator, (-0.5, 0.5)).exp() if inside else torch.ones_like(area)
    sides = (area.sqrt()[:, None] * torch.stack([stretch, 1 / stretch], 1)).clamp(0, 1)
    corner = place * (1 - sides) if inside else place - sides / 2
    return torch.cat([corner, sides], 1)


def _inside(rectangles: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Which pixels' centres lie in the rectangles: (B, H, W) bool."""
    axes = []
    for axis, n in enumerate(size):
        centre = (torch.arange(n, device=rectangles.device) + 0.5) / n
        low, side = rectangles[:, axis, None], rectangles[:, 2 + axis, None]
        axes.append((centre >= low) & (centre < low + side))
    return axes[0][:, :, None] & axes[1][:, None, :]


def _uniform(
    n: int, generator: torch.Generator, limits: tuple[float, float] = (0.0, 1.0)
) -> torch.Tensor:
    low, high = limits
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)

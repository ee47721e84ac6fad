"""2D ResNets carried over to volumes with what they learnt: inflated, or in three planes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import nn

from volumetric.errors import ConfigError

Conversion = Literal["inflate", "acs"]

# Where torchvision's ResNets halve the frame, in order.
_HALVINGS = {name: at for at, name in enumerate(("conv1", "maxpool", "layer2", "layer3", "layer4"))}


def convert_resnet(
    network: nn.Module, *, how: Conversion, depth_halvings: int = len(_HALVINGS)
) -> nn.Module:
    """A network over (B, C, D, H, W) with the weights of a ResNet of torchvision's.

    "inflate" (I3D, Carreira 2017): kernels are repeated along D and divided by their size. D is
    continued by its own ends instead of by zeros, so that a volume of equal slices, be it of one,
    is answered exactly as the slice is in 2D. Kernels grow: 11.7 M parameters become 33.7 M
    (ResNet-18).

    "acs" (Yang 2021): a third of each convolution's kernels looks along the axial plane (H, W),
    one along the coronal (D, W), one along the sagittal (D, H). Parameters are those of the 2D
    network, to the last and under the same names.

    Norms keep what they counted, pools go through D as through H and W. Export and compilation
    work.

    Args:
        network: ResNet of torchvision, which is not changed.
        how: see above.
        depth_halvings: how many of the five places where the frame is halved, counted from the
            last, halve D too: 5 for volumes as deep as they are wide, 0 to keep every slice.

    Raises:
        ConfigError: another network or choice; grouped convolutions (ResNeXt) for "acs".
    """
    from torchvision.models import ResNet

    if not isinstance(network, ResNet) or how not in get_args(Conversion):
        raise ConfigError(
            "not-convertible",
            f"a {type(network).__name__} cannot be converted by {how!r}",
            f"Give a ResNet of torchvision, and one of {', '.join(get_args(Conversion))}",
        )
    if not 0 <= depth_halvings <= len(_HALVINGS):
        raise ConfigError(
            "bad-halvings",
            f"{depth_halvings} halvings of D, where the frame is halved {len(_HALVINGS)} times",
            f"Give 0 to {len(_HALVINGS)}",
        )
    converted: nn.Module = deepcopy(network)
    for name, module in list(converted.named_modules()):
        at = _HALVINGS.get(name.split(".")[0], len(_HALVINGS))
        replaced = _extend(module, how, through_depth=at >= len(_HALVINGS) - depth_halvings)
        if replaced is not None:
            parent, _, own = name.rpartition(".")
            setattr(converted.get_submodule(parent), own, replaced)
    return converted


def _extend(module: nn.Module, how: Conversion, *, through_depth: bool) -> nn.Module | None:
    """What does in 3D as the module does in 2D; None where that is the module itself."""
    if isinstance(module, nn.Conv2d):
        convolution = _Inflated if how == "inflate" else AcsConvolution
        return convolution(module, depth_stride=module.stride[0] if through_depth else 1)
    if isinstance(module, nn.BatchNorm2d):
        norm = nn.BatchNorm3d(module.num_features, module.eps, module.momentum)
        norm.load_state_dict(module.state_dict())
        return norm
    if isinstance(module, nn.MaxPool2d):
        depth_stride = module.stride if through_depth else 1
        stride: Any = (depth_stride, module.stride, module.stride)
        return nn.MaxPool3d(cast(int, module.kernel_size), stride, cast(int, module.padding))
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return nn.AdaptiveAvgPool3d(1)
    return None


class _Inflated(nn.Conv3d):
    """A 2D convolution whose kernels are repeated along D, the ends of which are continued."""

    def __init__(self, flat: nn.Conv2d, *, depth_stride: int):
        size, padding, dilation = (
            (along[0], along[0], along[1])
            for along in (flat.kernel_size, _padding(flat), flat.dilation)
        )
        super().__init__(
            flat.in_channels,
            flat.out_channels,
            size,
            (depth_stride, flat.stride[0], flat.stride[1]),
            (0, *padding[1:]),
            dilation,
            flat.groups,
            bias=False,
        )
        self.ends = padding[0]
        kernels = flat.weight.detach()[:, :, None].expand_as(self.weight)
        self.weight = nn.Parameter(kernels / size[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ends:
            first, last = (x[:, :, at : at + 1] for at in (0, x.shape[2] - 1))
            x = torch.cat([first] * self.ends + [x] + [last] * self.ends, 2)
        return super().forward(x)


class AcsConvolution(nn.Module):
    """Features (B, C, D, H, W) by the kernels of a 2D convolution, a third of them a plane.

    Axial (H, W), coronal (D, W), sagittal (D, H), as Yang 2021; where three do not divide the
    channels, the first planes get one more.

    Args:
        flat: the 2D convolution, without bias or groups.
        depth_stride: stride along D.

    Raises:
        ConfigError: a convolution in groups.
    """

    def __init__(self, flat: nn.Conv2d, *, depth_stride: int):
        super().__init__()
        if flat.groups != 1:
            raise ConfigError(
                "not-convertible",
                f"a convolution in {flat.groups} groups cannot be split among three planes",
                "Use inflate, or a ResNet without groups",
            )
        self.weight = nn.Parameter(flat.weight.detach().clone())
        self.stride = (depth_stride, *flat.stride)
        self.padding = _padding(flat)[0]
        self.dilation = flat.dilation[0]
        each, more = divmod(flat.out_channels, 3)
        self.split = [each + (plane < more) for plane in range(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features: see the class."""
        if self.weight.shape[-1] == 1:  # one voxel is the same in every plane
            return F.conv3d(x, self.weight[..., None], None, self.stride)
        results = []
        for axis, kernels in enumerate(torch.split(self.weight, self.split)):
            padding = [self.padding] * 3
            padding[axis] = 0
            in_plane = kernels.unsqueeze(2 + axis)
            results.append(F.conv3d(x, in_plane, None, self.stride, padding, self.dilation))
        return torch.cat(results, 1)


def _padding(flat: nn.Conv2d) -> tuple[int, int]:
    return cast(tuple[int, int], flat.padding)  # torchvision's ResNets name no padding "same"

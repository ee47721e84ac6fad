"""Networks: plain functions from numbers to an nn.Module over (B, C, D, H, W)."""

from volumetric.models.c3d import c3d
from volumetric.models.cnn3d import plain_cnn3d, small_cnn3d, video_network
from volumetric.models.inflate import convert_resnet
from volumetric.models.slice_unet import SliceUNet, slice_unet
from volumetric.models.slices import SliceNetwork, slice_network
from volumetric.models.unet import UNet
from volumetric.models.volumes import volume_network
from volumetric.models.weights import load_backbone

__all__ = [
    "SliceNetwork",
    "SliceUNet",
    "UNet",
    "c3d",
    "convert_resnet",
    "load_backbone",
    "plain_cnn3d",
    "slice_network",
    "slice_unet",
    "small_cnn3d",
    "video_network",
    "volume_network",
]

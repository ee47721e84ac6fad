"""Networks: plain functions from numbers to an nn.Module over (B, C, D, H, W)."""

from volumetric.models.unet import UNet

__all__ = ["UNet"]

"""Which device a stage works on."""

from __future__ import annotations

import torch

from volumetric.errors import DeviceError


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU where there is one.

    Raises:
        DeviceError: there is no such device.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise DeviceError(
            "no-such-device",
            f"device {name!r} was asked for, but torch sees {n_gpus} CUDA devices",
            "Use --device auto or cpu, or install a driver that torch's CUDA build supports",
        )
    return device


def describe_device(device: torch.device) -> str:
    """The device as a person knows it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    n_threads = torch.get_num_threads()
    return f"cpu ({n_threads} thread{'s' * (n_threads > 1)})"

"""C3D: plain 3D convolutions, one after the other (Tran 2015)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def c3d(n_channels: int, n_classes: int, *, width: int = 64, n_hidden: int = 4096) -> nn.Sequential:
    """C3D (Tran 2015): logits (B, n_classes) from images (B, n_channels, D, H, W) of any size.

    Eight convolutions of 3 x 3 x 3 without normalisation, five pools, three layers that see all
    of what is left. Pools round sizes up, as Caffe did. An average over a grid of (1, 4, 4) comes
    before the layers that see all: of (16, 112, 112), which the paper gives it, the pools leave
    that grid, and it is the paper's network; of other sizes the grid is made. Two thirds of
    its parameters look at this grid, so that place counts; where it should not, or where
    parameters are dear, a ResNet is the better choice. Tensors have the names of the usual
    PyTorch copies of the authors' weights (conv1 … conv5b, fc6, fc7, fc8). It starts from He's
    initialisation (2015), by which eight layers without normalisation learn.

    Args:
        n_channels: channels of the images.
        n_classes: numbers returned for each image.
        width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
        n_hidden: numbers between the last layers.
    """
    stages = [["1"], ["2"], ["3a", "3b"], ["4a", "4b"], ["5a", "5b"]]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before = n_channels
    for number, names in enumerate(stages, 1):
        channels = width * min(2 ** (number - 1), 8)
        for name in names:
            layers[f"conv{name}"] = nn.Conv3d(before, channels, 3, padding=1)
            layers[f"relu{name}"] = nn.ReLU(inplace=True)
            before = channels
        window = (1, 2, 2) if number == 1 else (2, 2, 2)
        layers[f"pool{number}"] = nn.MaxPool3d(window, ceil_mode=True)
    layers |= {"grid": nn.AdaptiveAvgPool3d((1, 4, 4)), "flatten": nn.Flatten()}
    for name, n_inputs in (("6", before * 16), ("7", n_hidden)):
        layers[f"fc{name}"] = nn.Linear(n_inputs, n_hidden)
        layers[f"relu{name}"] = nn.ReLU(inplace=True)
        layers[f"dropout{name}"] = nn.Dropout()
    layers["fc8"] = nn.Linear(n_hidden, n_classes)
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return network

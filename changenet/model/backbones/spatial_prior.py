"""The convolutional half of a ViT-Adapter: maps of the picture at strides 4, 8, 16 and 32."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

STEM_WIDTH = 56


class SpatialPrior(nn.Module):
    """A small convolutional network; every level ends as wide as the transformer's tokens.

    Args:
        width: D, channels of the four maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        stem = STEM_WIDTH
        self.stem = nn.Sequential(
            *_convolution(3, stem, stride=2),
            *_convolution(stem, stem),
            *_convolution(stem, stem),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        widths = (stem, 2 * stem, 4 * stem, 4 * stem)
        self.reduce = nn.ModuleList(
            [nn.Sequential(*_convolution(before, after, stride=2)) for before, after in itertools.pairwise(widths)]
        )
        self.project = nn.ModuleList([nn.Conv2d(each, width, kernel_size=1) for each in widths])
        self.apply(_initialise)

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (B, D, H / stride, W / stride) of a normalised picture, finest first."""
        levels = [self.stem(picture)]
        for reduce in self.reduce:
            levels.append(reduce(levels[-1]))
        return tuple(project(level) for project, level in zip(self.project, levels, strict=True))


def _convolution(before: int, after: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        outputs = module.out_channels * math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2 / outputs))
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""Last layers that may start at zero, so that a residual model's first forecast is persistence.

They are set in the constructor: where parameters are sharded as soon as they are made, a model has no later moment to do it.
"""

from __future__ import annotations

from torch import nn


def zero_(layer: nn.Module, zero: bool) -> None:
    """Set the parameters of a layer that is being constructed to zero, if asked to."""
    if zero:
        for parameter in layer.parameters(recurse=False):
            nn.init.zeros_(parameter)


class OutputLinear(nn.Linear):
    """A linear layer."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, zero: bool) -> None:
        super().__init__(in_features, out_features, bias)
        zero_(self, zero)


class OutputConv2d(nn.Conv2d):
    """A convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, padding: int | tuple[int, int] = 0, *, zero: bool
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=padding)
        zero_(self, zero)


class OutputConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution whose kernel is its stride: every patch by itself."""

    def __init__(self, in_channels: int, out_channels: int, patch: int, *, zero: bool) -> None:
        super().__init__(in_channels, out_channels, patch, stride=patch)
        zero_(self, zero)

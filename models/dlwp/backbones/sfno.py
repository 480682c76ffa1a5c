"""Spherical Fourier neural operator (Bonev et al. 2023), without norm and positional embedding. Residual.

Encode each point, blocks of [spherical convolution, ReLU, perceptron, skip], decode each point from features and
input.
Real parameters with L layers, width e, D degrees, perceptron ratio r, i channels in and o out:
``L ((2 D + 2 r) e^2 + (r + 1) e) + (i + o) e + i o``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.shapes import SFNO
from models.layers.outputs import OutputLinear
from models.layers.spherical import SphericalConv


class SphericalBlock(nn.Module):
    """Spherical convolution, ReLU, two linear layers with ReLU between them, identity skip around all."""

    def __init__(self, width: int, mlp_ratio: int, convolution: SphericalConv) -> None:
        super().__init__()
        self.convolution = convolution
        self.expand = nn.Linear(width, mlp_ratio * width)
        self.contract = nn.Linear(mlp_ratio * width, width)

    def forward(self, field: Tensor) -> Tensor:
        """``[width, height, batch, channel]``, same shape out."""
        # As matrices: the layers' results are no views then, and are written to instead of copied.
        mixed = F.relu_(self.convolution(field)).flatten(0, 2)
        increment: Tensor = self.contract(F.relu_(self.expand(mixed)))
        return increment.add_(field.flatten(0, 2)).view(field.shape)


class _Decoder(OutputLinear):
    """Acts on the concatenation of features and input, which need not be formed."""

    def forward(self, field: Tensor, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """``[.., width]`` and ``[.., inputs]`` to ``[.., outputs]``."""
        of_field, of_inputs = self.weight.split([field.shape[-1], inputs.shape[-1]], dim=1)
        return F.linear(field, of_field) + F.linear(inputs, of_inputs)


class SphericalOperator(nn.Module):
    """Context frames to the increment of the next frame: ``[batch, inputs, height, width] -> [batch, outputs, height,
    width]``."""

    residual = True

    def __init__(self, model: SFNO, fields: Fields) -> None:
        super().__init__()
        degrees, orders = min(model.degrees or fields.height, fields.height), min(fields.height, fields.width // 2)
        self.encoder = nn.Linear(fields.inputs, model.embed, bias=False)

        def convolution() -> SphericalConv:
            return SphericalConv(
                model.embed, model.embed, fields.latitudes_deg, fields.width, degrees=degrees, orders=min(orders, degrees)
            )

        self.blocks = nn.ModuleList(SphericalBlock(model.embed, model.mlp_ratio, convolution()) for _ in range(model.layers))
        self.decoder = _Decoder(model.embed + fields.inputs, fields.outputs, bias=False, zero=fields.zero_output)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict on the latitudes it was made for."""
        inputs = frames.permute(3, 2, 0, 1)
        field = self.encoder(inputs)
        for block in self.blocks:
            field = block(field)
        out: Tensor = self.decoder(field, inputs)
        return out.permute(2, 3, 1, 0)

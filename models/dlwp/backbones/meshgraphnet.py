"""MeshGraphNet (Pfaff et al. 2021) between grid points, and its multi-scale form. Residual.

Encode, process, decode: perceptrons on each node and edge, blocks of message passing, a perceptron on each node.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.graphs import grid_edges
from models.dlwp.shapes import MeshGraphNet
from models.layers.message_passing import EdgeTensors, MessageBlock, Perceptron


class GridMeshGraphNet(nn.Module):
    """Context frames to the increment of the next frame: ``[batch, inputs, height, width] -> [batch, outputs, height,
    width]``, on the grid the graph was made for."""

    residual = True

    def __init__(self, model: MeshGraphNet, fields: Fields) -> None:
        super().__init__()
        edges = grid_edges(fields, model.graph)
        self.edges = EdgeTensors(edges)

        def perceptron(enter: int, leave: int, *, norm: bool = True) -> Perceptron:
            return Perceptron([enter], model.encoder, leave, activation=model.activation, norm=norm)

        self.edge_encoder = perceptron(edges.features.shape[1], model.hidden)
        self.node_encoder = perceptron(fields.inputs, model.hidden)
        self.blocks = nn.ModuleList(
            MessageBlock(model.hidden, self.edges, activation=model.activation) for _ in range(model.blocks)
        )
        self.decoder = perceptron(model.hidden, fields.outputs, norm=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict."""
        _, _, features = self.edges.on(frames.device)
        nodes = self.node_encoder(frames.flatten(2).permute(2, 0, 1))
        links = self.edge_encoder(features.to(frames.dtype))  # the same for all samples
        for block in self.blocks:
            nodes, links = block(nodes, links)
        out: Tensor = self.decoder(nodes)
        return out.permute(1, 2, 0).unflatten(2, frames.shape[2:])

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

        def encoder(features: int) -> Perceptron:
            return Perceptron([features], model.encoder, model.hidden, activation=model.activation)

        self.edge_encoder = encoder(edges.features.shape[1])
        self.node_encoder = encoder(fields.inputs)
        self.blocks = nn.ModuleList(
            MessageBlock(model.hidden, self.edges, activation=model.activation) for _ in range(model.blocks)
        )
        self.decoder = Perceptron(
            [model.hidden], model.encoder, fields.outputs, activation=model.activation, norm=False, zero_output=fields.zero_output
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Predict."""
        _, _, features = self.edges.on(frames.device)
        nodes = self.node_encoder(frames.flatten(2).permute(2, 0, 1))
        links = self.edge_encoder(features.to(frames.dtype))  # the same for all samples
        for block in self.blocks:
            nodes, links = block(nodes, links)
        out: Tensor = self.decoder(nodes)
        return out.permute(1, 2, 0).unflatten(2, frames.shape[2:])

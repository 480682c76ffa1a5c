"""GraphCast (Lam et al. 2023): from the grid to an icosahedral mesh of several resolutions, message passing there, and back.
Residual.

All perceptrons have one hidden layer with SiLU, all but the last a layer norm. What depends on the mesh alone is computed once
for all samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.multimesh import multimesh
from models.dlwp.shapes import GraphCast
from models.layers.message_passing import EdgeTensors, MessageBlock, Perceptron, sum_incoming


class MeshGraphCast(nn.Module):
    """Context frames to the increment of the next frame: ``[batch, inputs, height, width] -> [batch, outputs, height,
    width]``."""

    residual = True

    def __init__(self, model: GraphCast, fields: Fields) -> None:
        super().__init__()
        latitudes, longitudes = np.asarray(fields.latitudes_deg), np.arange(fields.width) * 360.0 / fields.width
        if model.published_grid:
            latitudes = np.linspace(-90.0, 90.0, fields.height)
            longitudes = np.linspace(-180.0, 180.0, fields.width + 1)[1:]
        graphs = multimesh(latitudes, longitudes, model.level)
        self.mesh, self.into, self.out_of = (EdgeTensors(edges) for edges in (graphs.mesh, graphs.into, graphs.out_of))
        self.nodes = graphs.nodes
        h = model.hidden

        def perceptron(*parts: int) -> Perceptron:
            return Perceptron(list(parts), h, h, layers=1, activation="silu")

        self.grid_embedding, self.mesh_embedding = perceptron(fields.inputs), perceptron(3)
        self.into_embedding, self.edge_embedding, self.out_embedding = perceptron(4), perceptron(4), perceptron(4)
        self.into_edge, self.into_grid, self.into_mesh = perceptron(h, h, h), perceptron(h), perceptron(h, h)
        self.blocks = nn.ModuleList(MessageBlock(h, self.mesh, layers=1, activation="silu") for _ in range(model.layers))
        self.out_edge, self.out_grid = perceptron(h, h, h), perceptron(h, h)
        self.decoder = Perceptron([h], h, fields.outputs, layers=1, activation="silu", norm=False, zero_output=fields.zero_output)

    def forward(self, frames: Tensor) -> Tensor:
        """Predict on the grid the graphs were made for."""
        device, dtype = frames.device, frames.dtype
        grid = self.grid_embedding(frames.flatten(2).permute(2, 0, 1))
        mesh = self.mesh_embedding(torch.as_tensor(self.nodes, device=device).to(dtype).unsqueeze(1))

        senders, receivers, features = self.into.on(device)
        links = self.into_edge(self.into_embedding(features.to(dtype)), grid, mesh, senders=senders, receivers=receivers)
        mesh = mesh + self.into_mesh(sum_incoming(links, receivers, len(self.nodes)), mesh)
        grid = grid + self.into_grid(grid)

        links = self.edge_embedding(self.mesh.on(device)[2].to(dtype))
        for block in self.blocks:
            mesh, links = block(mesh, links)

        senders, receivers, features = self.out_of.on(device)
        links = self.out_edge(self.out_embedding(features.to(dtype)), mesh, grid, senders=senders, receivers=receivers)
        grid = grid + self.out_grid(sum_incoming(links, receivers, grid.shape[0]), grid)
        out: Tensor = self.decoder(grid)
        return out.permute(1, 2, 0).unflatten(2, frames.shape[2:])

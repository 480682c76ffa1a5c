"""Graph networks of torch_geometric 2.8.1 with the shapes of ours: peers that benchmarks hold times and memory against.

As usual there, edge, sender and receiver are concatenated before the perceptron, sums scatter, and the samples of a batch are
parts of one graph.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from models.dlwp.fields import Fields
from models.dlwp.graphs import grid_edges
from models.dlwp.multimesh import multimesh
from models.dlwp.shapes import GraphCast, MeshGraphNet
from models.layers.message_passing import Edges


def perceptron(enter: int, hidden: int, leave: int, layers: int, activation: str, *, norm: bool = True) -> nn.Sequential:
    """Linear layers with an activation between them, and a layer norm."""
    kind = {"relu": nn.ReLU, "silu": nn.SiLU}[activation]
    parts: list[nn.Module] = [nn.Linear(enter, hidden), kind()]
    for _ in range(layers - 1):
        parts += [nn.Linear(hidden, hidden), kind()]
    return nn.Sequential(*parts, nn.Linear(hidden, leave), *[nn.LayerNorm(leave)] * norm)


class MessagePassingPeer(MessagePassing):
    """Edges from [edge, sender, receiver], then receivers from [sum of incoming edges, node], both as increments."""

    def __init__(self, channels: int, layers: int, activation: str, *, keeps_edges: bool = True) -> None:
        super().__init__(aggr="sum")
        self.edge = perceptron(3 * channels, channels, channels, layers, activation)
        self.node = perceptron(2 * channels, channels, channels, layers, activation)
        self.keeps_edges = keeps_edges

    def forward(self, senders: Tensor, receivers: Tensor, links: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """``[node, C]``, ``[node, C]``, ``[edge, C]`` and ``[2, edge]``; receivers and links after it."""
        size = senders.shape[0], receivers.shape[0]
        increment = self.edge_updater(index, x=(senders, receivers), links=links, size=size)
        links = links + increment if self.keeps_edges else increment
        total = self.propagate(index, links=links, size=size)
        return receivers + self.node(torch.cat([total, receivers], dim=-1)), links

    def edge_update(self, x_j: Tensor, x_i: Tensor, links: Tensor) -> Tensor:
        out: Tensor = self.edge(torch.cat([links, x_j, x_i], dim=-1))
        return out

    def message(self, links: Tensor) -> Tensor:
        return links


def repeated(edges: Edges, senders: int, batch: int) -> Tensor:
    """Edges of a graph of several equal parts, ``[2, batch * edge]``."""
    index = torch.tensor(np.stack([edges.senders, edges.receivers]))
    step = torch.tensor([[senders], [edges.num_receivers]])
    return torch.cat([index + sample * step for sample in range(batch)], dim=1)


class MeshGraphNetPeer(nn.Module):
    """Encoders, blocks, decoder; edges are encoded once for all samples."""

    def __init__(self, model: MeshGraphNet, fields: Fields, batch: int) -> None:
        super().__init__()
        edges = grid_edges(fields, model.graph)
        self.index = repeated(edges, edges.num_receivers, batch)
        self.features = torch.tensor(edges.features)
        kind = 2, model.activation
        self.edge_encoder = perceptron(edges.features.shape[1], model.encoder, model.hidden, *kind)
        self.node_encoder = perceptron(fields.inputs, model.encoder, model.hidden, *kind)
        self.blocks = nn.ModuleList(MessagePassingPeer(model.hidden, *kind) for _ in range(model.blocks))
        self.decoder = perceptron(model.hidden, model.encoder, fields.outputs, *kind, norm=False)

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, inputs, height, width] -> [batch, outputs, height, width]``."""
        batch = frames.shape[0]
        nodes = self.node_encoder(frames.flatten(2).transpose(1, 2).flatten(0, 1))
        links = self.edge_encoder(self.features).repeat(batch, 1)
        for block in self.blocks:
            nodes, links = block(nodes, nodes, links, self.index)
        out: Tensor = self.decoder(nodes).unflatten(0, (batch, -1)).transpose(1, 2)
        return out.unflatten(2, frames.shape[2:])


class GraphCastPeer(nn.Module):
    """Grid to mesh, blocks on the mesh, mesh to grid; what depends on the mesh alone is embedded once for all samples."""

    def __init__(self, model: GraphCast, fields: Fields, batch: int) -> None:
        super().__init__()
        latitudes, longitudes = np.asarray(fields.latitudes_deg), np.arange(fields.width) * 360.0 / fields.width
        graphs = multimesh(latitudes, longitudes, model.level)
        points, corners, h = fields.height * fields.width, len(graphs.nodes), model.hidden
        kinds = {"into": (graphs.into, points), "mesh": (graphs.mesh, corners), "out_of": (graphs.out_of, corners)}
        self.index = {name: repeated(edges, senders, batch) for name, (edges, senders) in kinds.items()}
        self.features = {name: torch.tensor(edges.features) for name, (edges, _) in kinds.items()}
        self.nodes = torch.tensor(graphs.nodes)
        embedded = {"grid": fields.inputs, "node": 3, "into": 4, "mesh": 4, "out_of": 4}
        self.embed = nn.ModuleDict({name: perceptron(width, h, h, 1, "silu") for name, width in embedded.items()})
        self.into = MessagePassingPeer(h, 1, "silu", keeps_edges=False)
        self.grid = perceptron(h, h, h, 1, "silu")
        self.blocks = nn.ModuleList(MessagePassingPeer(h, 1, "silu") for _ in range(model.layers))
        self.out_of = MessagePassingPeer(h, 1, "silu", keeps_edges=False)
        self.decoder = perceptron(h, h, fields.outputs, 1, "silu", norm=False)

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, inputs, height, width] -> [batch, outputs, height, width]``."""
        batch = frames.shape[0]
        grid = self.embed["grid"](frames.flatten(2).transpose(1, 2).flatten(0, 1))
        mesh = self.embed["node"](self.nodes).repeat(batch, 1)
        links = {name: self.embed[name](features).repeat(batch, 1) for name, features in self.features.items()}
        mesh, _ = self.into(grid, mesh, links["into"], self.index["into"])
        grid = grid + self.grid(grid)
        for block in self.blocks:
            mesh, links["mesh"] = block(mesh, mesh, links["mesh"], self.index["mesh"])
        grid, _ = self.out_of(mesh, grid, links["out_of"], self.index["out_of"])
        out: Tensor = self.decoder(grid).unflatten(0, (batch, -1)).transpose(1, 2)
        return out.unflatten(2, frames.shape[2:])

"""Message passing on a fixed graph (Pfaff et al. 2021, MeshGraphNets).

Features are ``[node, batch, channel]`` and ``[edge, batch, channel]``: a gather copies whole rows, and the graph is not repeated
for every sample. Edges are sorted by receiver, so that sums over incoming edges write to memory in order. The first layer of an
edge's perceptron acts on [edge, sender, receiver]: its product with the nodes' part is formed once per node, not per edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.layers.outputs import OutputLinear


@dataclass(frozen=True, eq=False)
class Edges:
    """Directed edges from one set of nodes to another (or the same), sorted by receiver.

    Attributes:
        senders, receivers: node indices, int64 ``[edge]``.
        features: what the network is told of each edge, float32 ``[edge, feature]``.
        num_receivers: nodes on the receiving side.
    """

    senders: NDArray[np.int64]
    receivers: NDArray[np.int64]
    features: NDArray[np.float32]
    num_receivers: int

    @classmethod
    def sorted(
        cls, senders: NDArray[np.int64], receivers: NDArray[np.int64], features: NDArray[np.float64], num_receivers: int
    ) -> Edges:
        """From edges in any order."""
        order = np.lexsort((senders, receivers))
        return cls(senders[order], receivers[order], features[order].astype(np.float32), num_receivers)

    def __len__(self) -> int:
        return len(self.senders)


class EdgeTensors:
    """An :class:`Edges` on whichever device asks for it, copied once to each. Constants of the grid: no buffers, no state."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges
        self._on: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Senders, receivers and features ``[edge, 1, feature]``."""
        found = self._on.get(device)
        if found is None:
            with torch.inference_mode(False):
                found = (
                    torch.tensor(self.edges.senders, device=device),
                    torch.tensor(self.edges.receivers, device=device),
                    torch.tensor(self.edges.features, device=device).unsqueeze(1),
                )
            if type(found[0]) is Tensor:  # never a tensor of a tracing or counting mode
                self._on[device] = found
        return found


class Perceptron(nn.Module):
    """Linear layers with an activation between them, and a layer norm at the end.

    With k hidden layers of width h: ``(in h + h) + (k - 1) (h^2 + h) + (h out + out)`` parameters, and ``2 out`` of the norm.

    Args:
        parts: widths of what the first layer takes, which need not be concatenated.
        zero_output: the last layer starts at zero.
    """

    def __init__(
        self,
        parts: list[int],
        hidden: int,
        out_channels: int,
        *,
        layers: int = 2,
        activation: str = "relu",
        norm: bool = True,
        zero_output: bool = False,
    ) -> None:
        super().__init__()
        self.parts = parts
        # Held by this module itself: its parts are multiplied apart.
        self.weight = nn.Parameter(torch.empty(hidden, sum(parts)))
        self.bias = nn.Parameter(torch.empty(hidden))
        bound = sum(parts) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        self.hidden = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.last = OutputLinear(hidden, out_channels, zero=zero_output)
        self.norm = nn.LayerNorm(out_channels) if norm else None
        self.activation = getattr(F, activation)

    def forward(self, *inputs: Tensor, senders: Tensor | None = None, receivers: Tensor | None = None) -> Tensor:
        """Apply to the concatenation of inputs along their last dimension.

        Args:
            inputs: one per part, ``[row, batch or 1, part]``.
            senders, receivers: rows of the second and the third input that belong to each row of the first.
        """
        weights = self.weight.split(self.parts, dim=1)
        field = F.linear(inputs[0], weights[0], self.bias)
        for part, weight, rows in zip(inputs[1:], weights[1:], (senders, receivers), strict=False):
            product = F.linear(part, weight)
            if rows is None:
                field = field + product
                continue
            gathered = product.index_select(0, rows)
            # What was gathered is ours to write to, where it is not a row for all samples that meets one for each.
            field = gathered.add_(field) if gathered.shape[1] >= field.shape[1] else gathered + field
        field = self.activation(field)
        for layer in self.hidden:
            field = self.activation(layer(field))
        field = self.last(field)
        return field if self.norm is None else self.norm(field)


class MessageBlock(nn.Module):
    """Edges from [edge, sender, receiver], then nodes from [sum of incoming edges, node]; both are increments.

    Args:
        channels: width of nodes and edges, and of the perceptrons between them.
    """

    def __init__(self, channels: int, edges: EdgeTensors, *, layers: int = 2, activation: str = "relu") -> None:
        super().__init__()
        self.edges = edges
        self.edge = Perceptron([channels] * 3, channels, channels, layers=layers, activation=activation)
        self.node = Perceptron([channels] * 2, channels, channels, layers=layers, activation=activation)

    def forward(self, nodes: Tensor, links: Tensor) -> tuple[Tensor, Tensor]:
        """``[node, batch, C]`` and ``[edge, batch or 1, C]``, same shapes out (with the batch)."""
        senders, receivers, _ = self.edges.on(nodes.device)
        links = links + self.edge(links, nodes, nodes, senders=senders, receivers=receivers)
        return nodes + self.node(sum_incoming(links, receivers, self.edges.edges.num_receivers), nodes), links


def sum_incoming(links: Tensor, receivers: Tensor, num_receivers: int) -> Tensor:
    """``[edge, batch, C]`` summed by receiver: ``[node, batch, C]``."""
    return links.new_zeros(num_receivers, *links.shape[1:]).index_add(0, receivers, links)

"""The plain forms of what our layers do otherwise, on the same weights: what benchmarks state our gain over.

Attention forms all scores, and autograd keeps them. Message passing gathers, concatenates, applies the perceptron and adds up
edges that come in any order.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dlwp.shapes import MeshGraphNet, Swin
from models.layers.message_passing import Edges, EdgeTensors, MessageBlock, Perceptron
from models.layers.window_attention import FORBIDDEN, WindowAttention
from tests.bench.backbone_cases import Case


def plain_form(case: Case) -> nn.Module:
    """Our backbone with its attention, or its blocks of message passing, replaced.

    Raises:
        TypeError: it has neither.
    """
    net, model = case.ours(), case.model()
    if isinstance(model, Swin):
        for stage in net.stages:
            for block in stage:
                block.attention = PlainAttention(block.attention)
    elif isinstance(model, MeshGraphNet):
        edges = net.edges.edges
        order = np.random.default_rng(0).permutation(len(edges))
        mixed = Edges(edges.senders[order], edges.receivers[order], edges.features[order], edges.num_receivers)
        net.edges = EdgeTensors(mixed)
        for place, block in enumerate(net.blocks):
            net.blocks[place] = PlainBlock(block, mixed)
    else:
        raise TypeError(f"{case.variant} has no plain form")
    return net


class PlainAttention(nn.Module):
    """One window over the whole map: softmax(q k^T + bias (+ mask)) v, biases by an index, as Swin was published."""

    def __init__(self, layer: WindowAttention) -> None:
        super().__init__()
        self.layer = layer
        rows, columns = layer.window
        place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(-1, 2)
        apart = place[:, None] - place[None] + torch.tensor([rows - 1, columns - 1])
        self.index = apart[..., 0] * (2 * columns - 1) + apart[..., 1]
        self.mask: Tensor | None = None
        for side, (length, shift, masked) in enumerate(zip(layer.window, layer.shift, layer.masked, strict=True)):
            if masked:
                beyond = place[:, side] >= length - shift
                mask = (beyond[:, None] != beyond[None]) * FORBIDDEN
                self.mask = mask if self.mask is None else self.mask + mask

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, rows, columns, channel]``, same shape out."""
        layer, shape = self.layer, tokens.shape
        back = (-layer.shift[0], -layer.shift[1])
        qkv = layer.qkv(tokens.roll(back, (1, 2)).flatten(1, 2))
        q, k, v = qkv.unflatten(2, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = layer.table.flatten(0, 1)[self.index].permute(2, 0, 1)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
        if self.mask is not None:
            scores = scores + self.mask
        mixed = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(shape)
        out: Tensor = layer.out(mixed.roll(layer.shift, (1, 2)))
        return out


class PlainBlock(nn.Module):
    """Edges from [edge, sender, receiver], nodes from [sum of incoming edges, node]."""

    def __init__(self, block: MessageBlock, edges: Edges) -> None:
        super().__init__()
        self.edge, self.node = block.edge, block.node
        self.senders, self.receivers = torch.tensor(edges.senders), torch.tensor(edges.receivers)

    def forward(self, nodes: Tensor, links: Tensor) -> tuple[Tensor, Tensor]:
        """``[node, batch, C]`` and ``[edge, batch or 1, C]``, same shapes out (with the batch)."""
        links = links.expand(-1, nodes.shape[1], -1)
        links = links + concatenated(self.edge, links, nodes[self.senders], nodes[self.receivers])
        total = torch.zeros_like(nodes).index_add(0, self.receivers, links)
        return nodes + concatenated(self.node, total, nodes), links


def concatenated(perceptron: Perceptron, *parts: Tensor) -> Tensor:
    """The perceptron on the concatenation of its parts."""
    field = perceptron.activation(F.linear(torch.cat(parts, dim=-1), perceptron.weight, perceptron.bias))
    for layer in perceptron.hidden:
        field = perceptron.activation(layer(field))
    field = perceptron.last(field)
    return field if perceptron.norm is None else perceptron.norm(field)

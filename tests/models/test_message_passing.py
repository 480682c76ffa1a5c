"""Message passing against the plain form: concatenate, loop over edges."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.layers.message_passing import Edges, EdgeTensors, MessageBlock, Perceptron


def random_edges(nodes: int, count: int) -> Edges:
    random = np.random.default_rng(0)
    pairs = random.integers(nodes, size=(2, count))
    return Edges.sorted(pairs[0], pairs[1], random.standard_normal((count, 3)), nodes)


def plain(perceptron: Perceptron, features: Tensor) -> Tensor:
    """The same perceptron on concatenated features."""
    field = perceptron.activation(features @ perceptron.weight.T + perceptron.bias)
    for layer in perceptron.hidden:
        field = perceptron.activation(layer(field))
    field = perceptron.last(field)
    return field if perceptron.norm is None else perceptron.norm(field)


def test_edges_are_sorted_by_receiver_with_their_features() -> None:
    edges = random_edges(7, 40)
    assert np.all(np.diff(edges.receivers) >= 0)
    pairs = np.random.default_rng(0).integers(7, size=(2, 40))
    assert sorted(zip(*pairs.tolist(), strict=True)) == sorted(zip(edges.senders, edges.receivers, strict=True))


def test_block_is_the_plain_form_in_value_and_gradient() -> None:
    torch.manual_seed(0)
    edges = random_edges(6, 17)
    block = MessageBlock(4, EdgeTensors(edges), activation="silu").double()
    for links_batch in (1, 3):  # the first block's edges are the same for all samples
        nodes = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
        links = torch.randn(17, links_batch, 4, dtype=torch.float64, requires_grad=True)
        found_nodes, found_links = block(nodes, links)
        ours = torch.autograd.grad(found_nodes.square().sum() + found_links.sin().sum(), [nodes, links, *block.parameters()])

        wide = links.expand(17, 3, 4)
        concatenated = torch.cat([wide, nodes[edges.senders], nodes[edges.receivers]], dim=-1)
        new_links = wide + plain(block.edge, concatenated)
        sums = [
            torch.stack([new_links[e] for e in range(17) if edges.receivers[e] == n] or [torch.zeros(3, 4).double()]).sum(0)
            for n in range(6)
        ]
        new_nodes = nodes + plain(block.node, torch.cat([torch.stack(sums), nodes], dim=-1))
        torch.testing.assert_close(found_links, new_links)
        torch.testing.assert_close(found_nodes, new_nodes)
        theirs = torch.autograd.grad(new_nodes.square().sum() + new_links.sin().sum(), [nodes, links, *block.parameters()])
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)


def test_parameters_follow_the_closed_form() -> None:
    for enter, leave, hidden, layers, norm in ((3, 8, 5, 2, True), (13, 4, 6, 1, False), (2, 2, 2, 3, True)):
        count = sum(p.numel() for p in Perceptron([enter], hidden, leave, layers=layers, norm=norm).parameters())
        expected = enter * hidden + hidden + (layers - 1) * (hidden**2 + hidden) + hidden * leave + leave + 2 * leave * norm
        assert count == expected

"""Public peers of our backbones, made to compute the same: what tests hold results against and benchmarks hold times against."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from models.dlwp.shapes import FNO2D, TFNO2D


def neuraloperator_peer(model: FNO2D, context: int) -> nn.Module:
    """The same operator in neuraloperator: equal channels, modes, layers (and rank 0.5 for the Tucker form), no positional
    embedding, no channel perceptron. Version 2.0.0 applies the activation twice where the channel perceptron is left out; every
    second call inside the blocks is made the identity."""
    from neuralop.models import FNO

    factorised = {"factorization": "Tucker", "rank": 0.5} if isinstance(model, TFNO2D) else {}
    peer: nn.Module = FNO(
        (model.modes_height, model.modes_width),
        context,
        1,
        model.width,
        model.layers,
        lifting_channel_ratio=model.lifting / model.width,
        projection_channel_ratio=model.projection / model.width,
        positional_embedding=None,
        use_channel_mlp=False,
        **factorised,
    )
    calls = itertools.count()
    peer.fno_blocks.non_linearity = lambda x: x if next(calls) % 2 else torch.nn.functional.gelu(x)
    return peer

"""Public peers of our backbones, made to compute the same: what tests hold results against and benchmarks hold times against.

Fourier operators: neuraloperator 2.0.0. Spherical operator: the example of torch-harmonics 0.8.0. Swin: transformers' SwinModel.
FourCastNet has no peer among installed packages that mixes tokens in Fourier space: BERT layers of equal tokens, width, number
and perceptron stand in for it. Graph networks: :mod:`tests.bench.graph_peers`.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.dlwp.fields import Fields
from models.dlwp.shapes import FNO2D, FNO3D, SFNO, TFNO2D, TFNO3D, FourCastNet, Swin


def neuraloperator_peer(model: FNO2D | FNO3D, inputs: int, outputs: int = 1) -> nn.Module:
    """The same operator in neuraloperator: equal channels, modes, layers (and ranks of the Tucker form), no positional
    embedding, no channel perceptron. Version 2.0.0 applies the activation twice where the channel perceptron is left out; every
    second call inside the blocks is made the identity."""
    from neuralop.models import FNO

    modes: tuple[int, ...] = (model.modes_height, model.modes_width)
    ranks: tuple[int, ...] = ()
    if isinstance(model, FNO3D):
        modes = (model.modes_time, *modes)
    if isinstance(model, TFNO2D):
        ranks = model.rank_height, model.rank_width
    elif isinstance(model, TFNO3D):
        ranks = model.rank_time, model.rank_height, model.rank_width
    factorised: dict[str, Any] = {}
    if isinstance(model, TFNO2D | TFNO3D):
        factorised = {"factorization": "Tucker", "rank": (model.rank_channels, model.rank_channels, *ranks)}
    peer: nn.Module = FNO(
        modes,
        inputs,
        outputs,
        model.width,
        model.layers,
        lifting_channel_ratio=model.lifting / model.width,
        projection_channel_ratio=model.projection / model.width,
        positional_embedding=None,
        use_channel_mlp=False,
        **factorised,
    )
    calls = itertools.count()
    peer.fno_blocks.non_linearity = lambda x: x if next(calls) % 2 else F.gelu(x)
    return peer


def torch_harmonics_peer(model: SFNO, fields: Fields) -> nn.Module:
    """Equal width, layers and degrees, no norm, no positional embedding. It has no activation between convolution and
    perceptron, and its decoder does not see the input: a little less work than ours."""
    from torch_harmonics.examples.models.sfno import SphericalFourierNeuralOperator

    peer: nn.Module = SphericalFourierNeuralOperator(
        img_size=(fields.height, fields.width),
        grid="legendre-gauss",
        scale_factor=1,
        in_chans=fields.inputs,
        out_chans=fields.outputs,
        embed_dim=model.embed,
        num_layers=model.layers,
        activation_function="relu",
        mlp_ratio=model.mlp_ratio,
        normalization_layer="none",
        pos_embed="none",
    )
    return peer


class SwinPeer(nn.Module):
    """SwinModel with one window over the whole map of every stage, its attention that of torch. The package knows square windows
    alone, of one size for all stages: its layers are told the map's, so that cutting into windows and putting them together again
    falls away. It has no decoder."""

    def __init__(self, model: Swin, fields: Fields) -> None:
        super().__init__()
        from transformers import SwinConfig, SwinModel
        from transformers.models.swin.modeling_swin import SwinLayer, SwinRelativePositionBias

        class WholeMapLayer(SwinLayer):
            def forward(self, tokens: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
                tokens = tokens + self.drop_path(self.attention(self.layernorm_before(tokens))[0])
                return tokens + self.drop_path(self.mlp(self.layernorm_after(tokens))), None

        rows, columns = fields.height // model.patch, fields.width // model.patch
        config = SwinConfig(
            image_size=(fields.height, fields.width),
            patch_size=model.patch,
            num_channels=fields.inputs,
            embed_dim=model.embed,
            depths=list(model.depths),
            num_heads=list(model.heads),
            window_size=1,
            mlp_ratio=model.mlp_ratio,
            drop_path_rate=model.drop_path,
            attn_implementation="sdpa",
        )
        self.net = SwinModel(config, add_pooling_layer=False)
        for index, stage in enumerate(self.net.encoder.layers):
            for layer in stage.blocks:
                layer.__class__ = WholeMapLayer
                window = rows >> index, columns >> index
                layer.attention.relative_position_bias = SwinRelativePositionBias(model.heads[index], window)

    def forward(self, frames: Tensor) -> Tensor:
        """Tokens of the last stage."""
        out: Tensor = self.net(frames).last_hidden_state
        return out


class TransformerPeer(nn.Module):
    """Patches, a stack of BERT layers, a head per patch."""

    def __init__(self, model: FourCastNet, fields: Fields) -> None:
        super().__init__()
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertLayer

        config = BertConfig(
            hidden_size=model.embed,
            num_attention_heads=model.blocks,
            intermediate_size=model.mlp_ratio * model.embed,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
        self.patch = model.patch_height, model.patch_width
        self.embed = nn.Conv2d(fields.inputs, model.embed, self.patch, self.patch)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(model.layers))
        self.head = nn.Linear(model.embed, fields.outputs * model.patch_height * model.patch_width)

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, inputs, height, width] -> [batch, outputs, height, width]``."""
        tokens = self.embed(frames).flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        return F.fold(self.head(tokens).transpose(1, 2), frames.shape[-2:], self.patch, stride=self.patch)

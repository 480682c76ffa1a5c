"""The numbers of a RETRO network, and what follows from them in closed form. No torch; the module is in
:mod:`models.piperag.retro.network`.

Sources: the configuration of the public checkpoint (``retro.json`` of TobiasNorlund/retro, used by PipeRAG, arXiv 2403.05676);
Borgeaud et al., ICML 2022, for the family.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from results.errors import ConfigError


@dataclass
class Stack:
    """Transformer layers: the encoder of neighbours, or the decoder.

    Layers are counted from 0. Biases of attention have one table per attention block; distances beyond its buckets share the
    outermost ones.
    """

    layers: int
    width: int
    ffn: int  # hidden width of the feed-forward networks
    heads: int
    cross_layers: list[int] = field(default_factory=list)  # layers that read the other stack
    self_buckets: int = 256  # relative positions that self-attention tells apart
    cross_buckets: int = 192  # likewise of cross-attention


@dataclass
class RetroShape:
    """A network of two stacks.

    The windows of ``chunk_tokens`` that are queries and the chunks of the database are equally long; a neighbour has twice as
    many tokens, the chunk and its continuation.
    """

    vocabulary: int
    chunk_tokens: int
    encoder: Stack
    decoder: Stack
    neighbours: int = 2  # per window; no parameter depends on it
    tied_head: bool = False  # the head is the decoder's embedding
    dropout: float = 0.0
    score_scale: bool = False  # scores divided by the root of the head's width; published: False
    gain: float = (
        0.6  # initial matrices are N(0, (gain / sqrt(inputs))^2): less than 1, as scores are unscaled; embeddings N(0, 1)
    )

    def check(self) -> None:
        """Hold the numbers against one another.

        Raises:
            ConfigError: heads that do not divide a width, or layers that do not exist.
        """
        for name, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            if stack.width % stack.heads:
                raise ConfigError(f"{stack.heads} heads do not divide a width of {stack.width}", where=f"model.{name}.heads")
            wrong = [layer for layer in stack.cross_layers if not 0 <= layer < stack.layers]
            if wrong or len(set(stack.cross_layers)) < len(stack.cross_layers):
                raise ConfigError(
                    f"cross-attention in layers {stack.cross_layers}, and there are layers 0 to {stack.layers - 1}",
                    where=f"model.{name}.cross_layers",
                )
            if min(stack.self_buckets, stack.cross_buckets) < 1:
                raise ConfigError("a table of position biases without buckets", where=f"model.{name}.self_buckets")
        if self.chunk_tokens < 1 or self.vocabulary < 2:
            raise ConfigError("a network without tokens", where="model.chunk_tokens, model.vocabulary")


def parameters(shape: RetroShape) -> dict[str, int]:
    """Parameters by part, embeddings within their stacks.

    Returns:
        ``encoder``, ``decoder``, ``head``, ``total``, and ``encoder_embedding``, ``decoder_embedding`` once more by themselves.
        Without cross-attention in the decoder there is no encoder.
    """
    encoder, decoder = shape.encoder, shape.decoder
    reads = bool(decoder.cross_layers)
    parts = {
        "encoder_embedding": shape.vocabulary * encoder.width * reads,
        "decoder_embedding": shape.vocabulary * decoder.width,
    }
    parts["encoder"] = parts["encoder_embedding"] + _layers(encoder, reads=decoder.width) * reads
    parts["decoder"] = parts["decoder_embedding"] + _layers(decoder, reads=encoder.width) + decoder.width
    parts["head"] = 0 if shape.tied_head else shape.vocabulary * decoder.width
    parts["total"] = parts["encoder"] + parts["decoder"] + parts["head"]
    return parts


def _layers(stack: Stack, *, reads: int) -> int:
    """Parameters of all layers; ``reads`` is the width of what cross-attention reads."""
    width = stack.width
    own = width + 4 * width**2 + stack.self_buckets * stack.heads
    cross = width + 2 * width**2 + 2 * reads * width + stack.cross_buckets * stack.heads
    feed_forward = width + 3 * width * stack.ffn
    return stack.layers * (own + feed_forward) + len(stack.cross_layers) * cross


def cache_bytes(shape: RetroShape, *, tokens: int, batch: int = 1, element_bytes: int = 4) -> int:
    """Keys and values of the decoder's self-attention for ``tokens`` positions, in bytes."""
    return 2 * shape.decoder.layers * shape.decoder.width * tokens * batch * element_bytes


def neighbour_bytes(shape: RetroShape, *, batch: int = 1, element_bytes: int = 4) -> int:
    """Cached keys and values of one set of neighbours, in bytes."""
    keys = shape.neighbours * 2 * shape.chunk_tokens
    return 2 * len(shape.decoder.cross_layers) * shape.decoder.width * keys * batch * element_bytes


#: The public checkpoint: 633,142,016 parameters, 583,793,408 without the head (the papers say 582 M).
PUBLISHED = RetroShape(
    vocabulary=32128,
    chunk_tokens=64,
    encoder=Stack(layers=2, width=896, ffn=3584, heads=14, cross_layers=[1], self_buckets=256, cross_buckets=192),
    decoder=Stack(layers=12, width=1536, ffn=6144, heads=12, cross_layers=[5, 8, 11], self_buckets=1024, cross_buckets=192),
    dropout=0.1,
)


def _family(width: int, ffn: int, heads: int, layers: int, first: int) -> RetroShape:
    """Cross-attention in every third layer from ``first`` on, here counted from 1 as in the paper."""
    return RetroShape(
        vocabulary=32128,
        chunk_tokens=64,
        encoder=Stack(layers=2, width=896, ffn=3584, heads=14, cross_layers=[1], self_buckets=256, cross_buckets=192),
        decoder=Stack(
            layers=layers,
            width=width,
            ffn=ffn,
            heads=heads,
            cross_layers=list(range(first - 1, layers, 3)),
            self_buckets=2048,
            cross_buckets=192,
        ),
        dropout=0.1,
    )


#: Widths and depths of the RETRO family, for planning only. They are recalled, not verified, and the names are the paper's: its
#: feed-forward networks and positions differ from those here, so that these networks count more than their names say. The
#: vocabulary is the public checkpoint's, because the paper's 128,000 tokens do not fit the 16 bits of a stored token.
FAMILY = {
    "172M": _family(896, 3584, 16, 12, first=6),
    "425M": _family(1536, 6144, 12, 12, first=6),
    "1.5B": _family(2048, 8192, 16, 24, first=9),
    "7.5B": _family(4096, 16384, 32, 32, first=9),
}

#: Trained in minutes on two cores, for text over 64 tokens and pad: 271,616 parameters.
SMALL_7A = RetroShape(
    vocabulary=65,
    chunk_tokens=16,
    encoder=Stack(layers=2, width=64, ffn=128, heads=4, cross_layers=[1], self_buckets=64, cross_buckets=48),
    decoder=Stack(layers=3, width=64, ffn=128, heads=4, cross_layers=[1, 2], self_buckets=256, cross_buckets=64),
)

#: Heavy enough per token to be timed beside a retrieval; never trained.
LATENCY_7C = RetroShape(
    vocabulary=4096,
    chunk_tokens=64,
    encoder=Stack(layers=2, width=128, ffn=512, heads=4, cross_layers=[1], self_buckets=256, cross_buckets=192),
    decoder=Stack(layers=4, width=256, ffn=1024, heads=4, cross_layers=[1, 3], self_buckets=256, cross_buckets=192),
)

#: Fewer buckets than positions, so that clamping is met.
TINY = RetroShape(
    vocabulary=17,
    chunk_tokens=4,
    encoder=Stack(layers=2, width=8, ffn=12, heads=2, cross_layers=[1], self_buckets=6, cross_buckets=5),
    decoder=Stack(layers=3, width=12, ffn=20, heads=3, cross_layers=[1, 2], self_buckets=7, cross_buckets=6),
)

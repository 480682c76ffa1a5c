"""What piperag says of itself without torch: variants, sizes, metrics, presets, checks.

Jiang, Zhang, Han, Wang, Wang, Kraska, "PipeRAG: Fast Retrieval-Augmented Generation via Algorithm-System Co-design",
arXiv 2403.05676 (2024), KDD 2025, on a RETRO base (Borgeaud et al., ICML 2022).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Optional

from models.catalogue import Catalogue, Variant
from models.piperag.retro.shape import FAMILY, PUBLISHED, SMALL_7A, TINY, RetroShape, parameters
from results.errors import ConfigError, near_matches
from results.metrics import Direction, MetricSpec

CORPORA = ("walks", "text", "folio", "wiki")
#: The schedule of each variant that is served; ``piperag`` follows ``data.serving.pipeline``.
SCHEDULE_OF = {"none": "none", "retro": "sequential", "retro_plus": "sequential", "piperag": "pipelined"}
PIPELINES = ("pipelined", "client")

_SIZES = {"tiny": ("7k",), "small": ("272k",), "paper": ("633M", *FAMILY)}
_SHAPES: dict[str, RetroShape] = {"7k": TINY, "272k": SMALL_7A, "633M": PUBLISHED, **FAMILY}

CATALOGUE = Catalogue(
    name="piperag",
    title="PipeRAG: retrieval beside decoding",
    paper="Jiang et al., PipeRAG: Fast Retrieval-Augmented Generation via Algorithm-System Co-design, arXiv 2403.05676 (2024)",
    version=1,
    kind="profiled",
    variants=(
        Variant(name="base", title="RETRO base (trained)", sizes=_SIZES),
        Variant(name="none", title="no retrieval", sizes=_SIZES),
        Variant(name="retro", title="RETRO", sizes=_SIZES),
        Variant(name="retro_plus", title="RETRO+", sizes=_SIZES),
        Variant(name="piperag", title="PipeRAG", sizes=_SIZES),
    ),
    metrics=(
        MetricSpec("perplexity", "1", Direction.MIN, "perplexity of held-out text"),
        MetricSpec("loss", "nat", Direction.MIN, "mean loss of a token"),
        MetricSpec("none_perplexity", "1", Direction.NONE, "perplexity without retrieval"),
        MetricSpec("retrievals", "1", Direction.NONE, "retrievals of a text"),
    ),
    primary_metric="perplexity",
)


@dataclass
class Serving:
    """How a trained model is served."""

    interval: int = 0  # tokens between retrievals, 1 to a chunk; 0: a chunk
    nprobe: int = 8  # inverted lists scanned
    pipeline: str = "pipelined"  # piperag: pipelined | client
    shifted: bool = True  # stale answers are shifted by their age
    texts: int = 0  # held-out texts; 0: all


@dataclass
class Data:
    """A token database, texts to train on and texts held out.

    ``corpus=walks`` generates them: documents that walk through a table in which every token has ``successors`` distinct ones, so
    that the best model without retrieval has exactly that perplexity. ``text``, ``folio`` and ``wiki`` read files of the user's.
    """

    corpus: str = "walks"  # walks | text | folio | wiki
    path: Optional[str] = None  # noqa: UP045  folder of the user's own files
    documents: int = 400
    document_tokens: int = 192
    successors: int = 8
    training_documents: int = 320  # the others are held out; all are in the database
    sequence_tokens: int = 128  # of a text
    encoder: str = "hashed"  # of query windows: hashed | lsa | minilm
    encoder_channels: int = 256
    index: str = "IVF64,PQ32np"  # FAISS's description
    points_per_centroid: int = 18  # to train a sub-quantiser; FAISS wants 39
    shards: int = 2
    store_seed: int = 0
    training_nprobe: int = 16
    without_share: float = 0.2  # training texts that are read without neighbours, so that this is met in training
    serving: Serving = field(default_factory=Serving)


def model_preset(variant: str, size: str, scale: str) -> RetroShape:
    """The network's numbers.

    Raises:
        ConfigError: unknown variant, scale or size.
    """
    return copy.deepcopy(_SHAPES[CATALOGUE.size(variant, size, scale)])


def interval_of(point: Any) -> int:
    """Tokens between boundaries: RETRO has a chunk, whatever is asked for."""
    chunk: int = point.model.chunk_tokens
    return chunk if point.variant in ("retro", "base") else point.data.serving.interval or chunk


def schedule_of(point: Any) -> str:
    """The name of the schedule that a variant is served under."""
    return str(point.data.serving.pipeline) if point.variant == "piperag" else SCHEDULE_OF.get(point.variant, "sequential")


def check(point: Any) -> None:
    """Hold data and model against each other.

    Raises:
        ConfigError: the first impossible number or combination, with its key in ``where``.
    """
    data, model, serving = point.data, point.model, point.data.serving
    model.check()
    _one_of("data.corpus", data.corpus, CORPORA)
    _one_of("data.serving.pipeline", serving.pipeline, PIPELINES)
    if data.corpus != "walks" and not data.path:
        raise ConfigError(f"data.corpus={data.corpus} needs a path", where="data.path", next_step="data.path=FOLDER")
    for key in ("documents", "document_tokens", "successors", "sequence_tokens", "encoder_channels", "shards", "training_nprobe"):
        if getattr(data, key) < 1:
            raise ConfigError(f"data.{key} is {getattr(data, key)}; it must be at least 1", where=f"data.{key}")
    if data.corpus == "walks" and not 0 < data.training_documents < data.documents:
        raise ConfigError(
            f"{data.training_documents} of {data.documents} documents leave none to train on, or none held out",
            where="data.training_documents",
        )
    if data.corpus == "walks" and data.sequence_tokens > data.document_tokens:
        raise ConfigError(
            f"texts of {data.sequence_tokens} tokens cannot be cut out of documents of {data.document_tokens}",
            where="data.sequence_tokens",
        )
    if data.sequence_tokens <= model.chunk_tokens:
        raise ConfigError(
            f"a text of {data.sequence_tokens} tokens has no token beyond a first window of {model.chunk_tokens}",
            where="data.sequence_tokens",
        )
    if data.successors >= model.vocabulary - 1:
        raise ConfigError(f"{model.vocabulary - 1} tokens cannot have {data.successors} successors each", where="data.successors")
    if not 0 <= data.without_share <= 1:
        raise ConfigError(f"a share of {data.without_share} is not within 0 and 1", where="data.without_share")
    if not 0 <= serving.interval <= model.chunk_tokens:
        raise ConfigError(
            f"an interval of {serving.interval} tokens is not within 1 and {model.chunk_tokens} (0: a chunk)",
            where="data.serving.interval",
        )
    if serving.nprobe < 1 or serving.texts < 0:
        raise ConfigError("lists and texts are counted from 1", where="data.serving.nprobe, data.serving.texts")


def num_parameters(model: RetroShape) -> int:
    """Parameters in closed form."""
    return parameters(model)["total"]


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key} is '{value}'{near_matches(value, known)}", where=key)

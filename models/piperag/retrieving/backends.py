"""What a retriever hosts: a recipe that builds the backend where it searches, and the guard before and after it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np

from models.piperag.retrieving.faults import QueryRefused
from models.piperag.types import PAD, Backend, Query, Reply, RetrievalError
from results.errors import ConfigError, near_matches

#: Token ids are 16 bits wide on disk and on the wire.
MAX_TOKEN = 2**16 - 1
#: Tokens that one reply may hold (32 MiB on the wire): no query may make a retriever ask for more memory than that.
MAX_REPLY_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """How to build a backend: plain and picklable, so that heavy packages are imported only where it searches.

    Attributes:
        path: dotted path of a callable, ``package.module.name``.
        keywords: its keyword arguments.
    """

    path: str
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def build(self, method: str = "retrieve") -> Any:
        """Import the callable and call it.

        Args:
            method: that the backend must have, besides ``chunk_tokens`` and ``close()``.

        Raises:
            ConfigError: there is no such callable, it takes other keywords, or what it returns is no backend.
        """
        built = self._callable()
        try:
            inspect.signature(built).bind(**self.keywords)
        except TypeError as error:
            raise ConfigError(
                f"'{self.path}' cannot be called with {sorted(self.keywords)}: {error}",
                where="the retriever's backend",
                next_step="give the keyword arguments that it takes",
            ) from None
        backend = built(**self.keywords)
        chunk_tokens = getattr(backend, "chunk_tokens", None)
        whole = all(callable(getattr(backend, name, None)) for name in (method, "close"))
        if not isinstance(chunk_tokens, int) or chunk_tokens < 1 or not whole:
            raise self._wrong(f"'{self.path}' returned {type(backend).__name__}, without chunk_tokens, {method}() or close()")
        return backend

    def _callable(self) -> Any:
        module_name, _, name = self.path.rpartition(".")
        if not module_name:
            raise self._wrong(f"'{self.path}' is no dotted path")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise self._wrong(f"'{self.path}' cannot be imported: {error}") from error
        found = getattr(module, name, None)
        if not callable(found):
            names = [known for known in vars(module) if not known.startswith("_") and callable(getattr(module, known))]
            raise self._wrong(f"module '{module_name}' has no callable '{name}'{near_matches(name, names)}")
        return found

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(what, where="the retriever's backend", next_step="name a callable as package.module.name")


def check_query(query: Query, chunk_tokens: int) -> Query:
    """Hold a query against what every backend may rely on.

    Args:
        chunk_tokens: length of a window, c.

    Returns:
        The query, its numbers as Python's: FAISS takes no others.

    Raises:
        QueryRefused: windows are not ``[batch, c]`` int64 token ids of 16 bits, or a number lies outside its range.
    """
    windows = query.windows
    if not isinstance(windows, np.ndarray) or windows.dtype != np.int64 or windows.ndim != 2:
        found = f"{windows.dtype} {list(windows.shape)}" if isinstance(windows, np.ndarray) else type(windows).__name__
        raise _refused(query, f"windows are [batch, {chunk_tokens}] int64 token ids, not {found}", "convert them")
    batch, tokens = windows.shape
    if tokens < chunk_tokens:
        raise _refused(
            query,
            f"the query is shorter than the window: {tokens} tokens instead of {chunk_tokens}",
            f"retrieve first when {chunk_tokens} tokens are known",
        )
    if tokens > chunk_tokens:
        raise _refused(query, f"the query is longer than the window: {tokens} tokens instead of {chunk_tokens}", "cut it")
    if batch == 0:
        raise _refused(query, "the query has no window", "ask for at least one")
    if windows.min() < 0 or windows.max() > MAX_TOKEN:
        raise _refused(query, f"token ids lie in 0 .. {MAX_TOKEN}, not {windows.min()} .. {windows.max()}", "use 16-bit tokens")
    query = Query(
        number=_number(query, "number", 0, 2**63 - 1),
        windows=windows,
        k=_number(query, "k", 1, 2**31),
        nprobe=_number(query, "nprobe", 1, 2**31),
        shift=_number(query, "shift", 0, chunk_tokens),
    )
    if batch * query.k * 2 * chunk_tokens > MAX_REPLY_TOKENS:
        what = f"{batch} windows with {query.k} neighbours each ask for more than {MAX_REPLY_TOKENS} tokens"
        raise _refused(query, what, "split the batch")
    return query


def _number(query: Query, name: str, low: int, high: int) -> int:
    value = getattr(query, name)
    with contextlib.suppress(TypeError):
        if low <= index(value) <= high:
            return index(value)
    raise _refused(query, f"{name} is a whole number in {low} .. {high}, not {value!r}", f"correct {name}")


def _refused(query: Query, what: str, next_step: str) -> QueryRefused:
    return QueryRefused(what, where=f"query {query.number}", next_step=next_step)


def check_reply(reply: Reply, query: Query, chunk_tokens: int) -> None:
    """Hold a reply against the query it answers, all but its number: only who waits knows which one it waits for.

    Raises:
        RetrievalError: shapes, types or ranges differ from what :class:`Reply` promises.
    """
    if not isinstance(reply, Reply):
        raise _broken(query, f"a {type(reply).__name__} instead of a Reply")
    if not isinstance(reply.number, int) or not 0 <= reply.number < 2**63:
        raise _broken(query, f"number {reply.number!r}")
    found = query.windows.shape[0], query.k
    _check_array(query, "values", reply.values, (*found, 2 * chunk_tokens))
    _check_array(query, "ids", reply.ids, found)
    if reply.values.min() < 0 or reply.values.max() > MAX_TOKEN:
        raise _broken(query, f"token ids outside 0 .. {MAX_TOKEN}")
    missing = reply.ids < 0
    if missing.any() and ((reply.ids < -1).any() or (reply.values[missing] != PAD).any()):
        raise _broken(query, "an id below -1, or tokens for a neighbour that was not found")
    if not 1 <= reply.nprobe <= query.nprobe:
        raise _broken(query, f"{reply.nprobe} lists scanned of {query.nprobe} asked for")
    if any(not math.isfinite(seconds) or seconds < 0 for seconds in reply.seconds.values()):
        raise _broken(query, f"times {reply.seconds}")


def _check_array(query: Query, name: str, found: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(found, np.ndarray) or found.dtype != np.int64 or found.shape != shape:
        said = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise _broken(query, f"{name} of {said} instead of int64 {list(shape)}")


def _broken(query: Query, what: str) -> RetrievalError:
    return RetrievalError(
        f"the backend answered with {what}",
        where=f"query {query.number}",
        next_step="correct the backend (models.piperag.types)",
    )


def answer(backend: Backend, query: Query) -> Reply:
    """The direct call that every transport must equal.

    Raises:
        RetrievalError: the query or the reply is not what it must be; whatever else the backend raises passes through.
    """
    query = check_query(query, backend.chunk_tokens)
    reply = backend.retrieve(query)
    check_reply(reply, query, backend.chunk_tokens)
    return reply

"""Backends for tests of transports: an exact one over a real FAISS index, and one that fails when it is told to."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from models.piperag.retrieving.merging import ShardReply
from models.piperag.types import PAD, Query, Reply

VOCABULARY = 61


class Flat:
    """Random chunks, exact search; windows and chunks are embedded by the mean of their tokens' random vectors."""

    def __init__(self, chunk_tokens: int = 16, chunks: int = 200, dim: int = 24, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.chunk_tokens = chunk_tokens
        self.tokens = random.integers(1, VOCABULARY, (chunks + 2, chunk_tokens))
        self.table = random.standard_normal((VOCABULARY, dim), dtype=np.float32)
        self.ids = np.arange(chunks)
        self.index = self.indexed()
        self.closed = False

    def indexed(self) -> faiss.IndexFlatL2:
        index = faiss.IndexFlatL2(self.table.shape[1])
        index.add(self.embed(self.tokens[self.ids]))
        return index

    def embed(self, windows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.table[windows].mean(axis=1)

    def search(self, query: Query) -> tuple[Reply, NDArray[np.float32]]:
        begun = time.perf_counter()
        embedded = self.embed(query.windows)
        encoded = time.perf_counter()
        distances, places = self.index.search(embedded, query.k)
        searched = time.perf_counter()
        ids = np.append(self.ids, -1)[places]  # -1, not found, is the last place
        chain = np.concatenate([self.tokens[ids], self.tokens[ids + 1], self.tokens[ids + 2]], axis=-1)
        values = chain[..., query.shift : query.shift + 2 * self.chunk_tokens]
        values = np.where(ids[..., None] < 0, PAD, values)
        seconds = {"encode": encoded - begun, "search": searched - encoded, "values": time.perf_counter() - searched}
        return Reply(number=query.number, values=values, ids=ids, nprobe=1, seconds=seconds), distances

    def retrieve(self, query: Query) -> Reply:
        return self.search(query)[0]

    def close(self) -> None:
        self.closed = True


class Delayed(Flat):
    """Answers after ``nprobe`` times 0.1 ms."""

    def retrieve(self, query: Query) -> Reply:
        time.sleep(query.nprobe * 1e-4)
        return super().retrieve(query)


class Faulty(Flat):
    """Fails at given queries.

    Args:
        faults: fault by number of the query.
        at_start: fault of building it.
        gate: an answer that is "late" comes as soon as this file is there, one that is "late2" as soon as the file of this name
            with a 2 behind it is.
        note: a file is written there when a fault begins, and that it was closed.
    """

    def __init__(
        self, faults: Mapping[int, str] | None = None, at_start: str = "", gate: str = "/no/gate", note: str = "", seed: int = 0
    ) -> None:
        super().__init__(seed=seed)
        self.faults = {int(number): fault for number, fault in (faults or {}).items()}
        self.gate, self.note = gate, note
        if at_start:
            self.fail(at_start)

    def say(self, what: str) -> None:
        if self.note:
            Path(self.note).write_text(what)

    def fail(self, fault: str) -> None:
        self.say(fault)
        if fault == "raise":
            raise ValueError("on purpose")
        if fault == "leave":
            raise SystemExit("on purpose")
        if fault == "exit":
            os._exit(3)
        if fault == "heir":  # somebody else keeps its end of the stream open
            heir = subprocess.Popen(["sleep", "60"], pass_fds=[int(sys.argv[1])])
            self.say(str(heir.pid))
            os._exit(3)
        if fault == "hold":  # the GIL, as a library would that does not release it
            ctypes.PyDLL(None).sleep(3600)
        if fault == "garbage":
            os.write(int(sys.argv[1]), b"\4\0\0\0junk")
        if fault == "endless":
            os.write(int(sys.argv[1]), b"\xff\xff\xff\xffjunk")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        while fault.startswith("late") and not Path(self.gate + fault.removeprefix("late")).exists():
            time.sleep(0.002)
        while fault == "hang":
            time.sleep(3600)

    def retrieve(self, query: Query) -> Reply:
        fault = self.faults.get(query.number, "")
        self.fail(fault)
        reply = super().retrieve(query)
        if fault == "number":
            return replace(reply, number=query.number + 1)
        if fault == "shape":
            return replace(reply, values=reply.values[:, :, 1:])
        return reply

    def close(self) -> None:
        self.say("closed")


class Shard(Flat):
    """Every ``shards``-th chunk."""

    def __init__(
        self, shard: int, shards: int, chunks: int = 200, faults: Mapping[str, str] | None = None, gate: str = "/no/gate"
    ) -> None:
        self.shard, self.shards = shard, shards
        self.faults, self.gate = faults or {}, gate  # by "shard/number", "shard/start"
        super().__init__(chunks=chunks)
        if f"{shard}/start" in self.faults:
            raise ValueError("on purpose")

    def indexed(self) -> faiss.IndexFlatL2:
        self.ids = self.ids[self.shard :: self.shards]
        return super().indexed()

    def retrieve_shard(self, query: Query) -> ShardReply:
        fault = self.faults.get(f"{self.shard}/{query.number}", "")
        if fault == "exit":
            os._exit(3)
        if fault == "raise":
            raise ValueError("on purpose")
        while fault == "late" and not Path(self.gate).exists():
            time.sleep(0.002)
        while fault == "hang":
            time.sleep(3600)
        reply, distances = self.search(query)
        if fault == "number":
            reply = replace(reply, number=query.number + 1)
        return ShardReply(reply=reply, distances=distances)


def without_method() -> object:
    """Not a backend."""
    return object()

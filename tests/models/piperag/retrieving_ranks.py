"""What tests start under mpiexec: rank 0 plays a scene with a sharded retriever and prints what came of it as one line of JSON.

``python -m tests.models.piperag.retrieving_ranks SCENE FOLDER``
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpi4py import MPI

from models.piperag.retrieving import ranks
from models.piperag.retrieving.backends import BackendSpec, answer
from models.piperag.retrieving.faults import RetrievalLate
from models.piperag.retrieving.ranks import RanksRetriever
from models.piperag.types import RetrievalError
from results.errors import TenfoldError
from tests.models.piperag.retrieving_backends import Flat
from tests.models.piperag.retrieving_support import assert_same, query, until

SHARD = "tests.models.piperag.retrieving_backends.Shard"
FOLDER = Path(sys.argv[2])


def refused(retriever: RanksRetriever, number: int, timeout_s: float | None = None) -> str:
    try:
        retriever.submit(query(number)).result(timeout_s)
    except RetrievalError as error:
        return f"{type(error).__name__}: {error}"
    return "answered"


def equal(retriever: RanksRetriever) -> dict[str, Any]:
    """Replies of the whole index, one by one and several under way."""
    whole = Flat()
    for number, (batch, k, shift) in enumerate([(1, 2, 0), (3, 4, 16), (64, 2, 7), (600, 64, 3)]):
        asked = query(number, batch=batch, k=k, shift=shift, nprobe=3)
        assert_same(retriever.submit(asked).result(), answer(whole, asked))
    asks = [query(number, k=2) for number in range(20)]
    pending = [retriever.submit(one) for one in asks]
    for one, under_way in reversed(list(zip(asks, pending, strict=True))):
        assert_same(under_way.result(), answer(whole, one))
    facts: Any = retriever.facts()
    pids = [shard["pid"] for shard in facts["shards"]]
    assert retriever.ping() > 0
    return {"transport": facts["transport"], "pids": len({*pids, os.getpid()}), "counts": facts["counts"]}


def faults(retriever: RanksRetriever) -> dict[str, Any]:
    """One shard raises, answers with another number, is late: the query fails, what follows does not."""
    whole, said = Flat(), {}
    for number in (1, 3):
        said[number] = refused(retriever, number)
        assert_same(retriever.submit(query(number + 1)).result(), answer(whole, query(number + 1)))
    late = retriever.submit(query(5))
    try:
        late.result(timeout_s=0.1)
    except RetrievalLate as error:
        said[5] = error.what
    (FOLDER / "gate").touch()
    assert_same(retriever.submit(query(6)).result(), answer(whole, query(6)))
    return {"said": said, "counts": asdict(retriever.counts)}


def polled(retriever: RanksRetriever) -> dict[str, Any]:
    """``done`` is all that a generator calls while it decodes."""
    pending = retriever.submit(query(1))
    until(pending.done)
    retriever.close()
    retriever.close()
    return {"number": pending.result().number, "closed": refused(retriever, 2)}


def lost(retriever: RanksRetriever) -> dict[str, Any]:
    """A shard ends without a word: MPI ends the rest."""
    return {"said": refused(retriever, 1)}


def hangs(retriever: RanksRetriever) -> dict[str, Any]:
    """A shard never answers: the query is late, and the end of rank 0 is not kept waiting."""
    retriever._grace_s = 0.3
    return {"said": refused(retriever, 1, timeout_s=0.3)}


def unbuilt(retriever: RanksRetriever) -> dict[str, Any]:
    raise AssertionError("a retriever that was not built is not handed out")


SCENES: dict[str, tuple[Callable[[RanksRetriever], dict[str, Any]], dict[str, str]]] = {
    "equal": (equal, {}),
    "faults": (faults, {"0/1": "raise", "1/3": "number", "1/5": "late"}),
    "polled": (polled, {}),
    "lost": (lost, {"1/1": "exit"}),
    "hangs": (hangs, {"1/1": "hang"}),
    "unbuilt": (unbuilt, {"1/start": "raise"}),
}


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    scene, given = SCENES[sys.argv[1]]
    spec = BackendSpec(SHARD, {"faults": given, "gate": str(FOLDER / "gate")})
    (FOLDER / f"pid-{MPI.COMM_WORLD.rank}").write_text(str(os.getpid()))
    try:
        found = ranks.run(MPI.COMM_WORLD, spec, scene)
    except TenfoldError as error:
        found = {"error": str(error)}
    if found is not None:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

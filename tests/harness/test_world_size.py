"""A run goes on with another number of ranks: 2, then 1, then 4, for every ZeRO stage. Real runs by the command line, all chains
at once; each test then reads what one of them left."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.sampler import draw
from results.runfolder import Attempt, RunFolder
from results.store import read_json
from tests.support import FAULTY, ROOT, Workplace

pytestmark = pytest.mark.distributed

STEPS, BATCH, SAMPLES = 30, 8, 48
CONFIGS = ROOT / "tests" / "harness" / "steady" / "configs"
#: ``best`` is the first validation, after step 5, on two ranks: its weights are loaded on four at the end.
SELECT = {"zero0": "last", "zero1": "best", "zero2": "last", "zero3": "best"}
REFUSED = {"zero0": "zero1", "zero1": "zero3", "zero3": "zero2"}


@dataclass(frozen=True)
class Place(Workplace):
    """A working directory in which the system ``steady`` is known."""

    def environment(self) -> dict[str, str]:
        return {**Workplace.environment(self), "TENFOLD_SYSTEMS": "steady=tests.harness.steady"}

    def command(self, *words: str) -> list[str]:
        return [str(CONFIGS) if word == str(FAULTY) else word for word in Workplace.command(self, *words)]

    def stop_at(self, step: int | None) -> None:
        """The last rank alone is asked to leave in this step; None: nobody is."""
        path = self.path / "stop-at"
        if step is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(str(step))


@dataclass
class Chain:
    """What one run left behind.

    Attributes:
        said: what refused commands printed, and how many attempts there were afterwards.
    """

    place: Place
    said: list[tuple[int, str, int]] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        (folder,) = self.place.runs()
        return folder

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self.folder.record_file)
        return record

    def steps(self, key: str = "loss") -> list[dict[int, float]]:
        """By attempt: step to the mean over its ranks, each of which had an equal share of the batch."""
        return [_mean_over_ranks(attempt, key) for attempt in self.folder.attempts()]

    def joined(self, key: str = "loss") -> list[float]:
        """Of all attempts one after another; no step may be missing, and none done twice."""
        pairs = [pair for attempt in self.steps(key) for pair in attempt.items()]
        assert [step for step, _ in pairs] == list(range(STEPS))
        return [value for _, value in pairs]

    def drawn(self) -> list[list[int]]:
        """Samples of each step, in the order of the ranks."""
        found: dict[int, list[int]] = {}
        for attempt in self.record["attempts"]:
            world = attempt["ranks"]
            for rank in range(world):
                for line in (self.place.path / f"drawn-{rank}-of-{world}.jsonl").read_text().splitlines():
                    step, samples = json.loads(line)
                    found.setdefault(step, []).extend(samples)
        return [found[step] for step in sorted(found)]


def _mean_over_ranks(attempt: Attempt, key: str) -> dict[int, float]:
    files = sorted((attempt.path / "steps").glob("*.jsonl"))
    assert len(files) == attempt.read("attempt")["ranks"]
    ranks = [{row["step"]: row[key] for row in map(json.loads, path.read_text().splitlines())} for path in files]
    assert all(list(rank) == list(ranks[0]) for rank in ranks)
    return {step: sum(rank[step] for rank in ranks) / len(ranks) for step in ranks[0]}


def started(path: Path, engine: str, select: str, *, stop_at: int | None) -> Chain:
    """Begun on two ranks."""
    path.mkdir()
    chain = Chain(Place(path))
    words = ("system=steady", "scale=tiny", f"engine={engine}", "ranks=2", f"train.select={select}", "train.select_metric=held")
    chain.place.stop_at(stop_at)
    chain.place.tenfold("run", *words, expect=0 if stop_at is None else 1)
    return chain


def carried_on(path: Path, engine: str, done: dict[str, Chain]) -> None:
    """Stopped on two ranks, stopped on one, completed on four."""
    chain = done[engine] = started(path, engine, SELECT[engine], stop_at=7)
    place, name = chain.place, chain.folder.name
    if engine in REFUSED:
        refused = place.tenfold("retry", name, "--with", f"engine={REFUSED[engine]}", expect=None)
        chain.said.append((refused.returncode, refused.stderr, len(chain.folder.attempts())))
    if engine == "zero1":
        copy = Place(path.parent / "zero1-zero2")
        shutil.copytree(path, copy.path)
        copy.stop_at(None)
        copy.tenfold("retry", name, "--with", "engine=zero2", "--with", "ranks=1")
        done["zero1-zero2"] = Chain(copy)
    place.stop_at(15)
    place.tenfold("retry", name, "--with", "ranks=1", expect=1)
    place.stop_at(None)
    place.tenfold("retry", name, "--with", "ranks=4")


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Chain]:
    """All of them, two at a time."""
    root = tmp_path_factory.mktemp("chains")
    done: dict[str, Chain] = {}
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(carried_on, root / engine, engine, done) for engine in ("zero1", "zero3", "zero2", "zero0")]
        reference = pool.submit(started, root / "unbroken", "zero0", "last", stop_at=None)
        for one in waiting:
            one.result()
        done["unbroken"] = reference.result()
    return done


@pytest.mark.parametrize("engine", SELECT)
def test_the_run_goes_on_as_if_nothing_had_happened(engine: str, chains: dict[str, Chain]) -> None:
    """The reference is one uninterrupted run on two ranks; that all stages agree with it, they must anyway."""
    chain, reference = chains[engine], chains["unbroken"]
    assert [len(chain.steps()), len(reference.steps())] == [3, 1]
    assert [(min(steps), max(steps)) for steps in chain.steps()] == [(0, 9), (10, 15), (16, STEPS - 1)]
    assert chain.joined() == pytest.approx(reference.joined(), rel=1e-5)
    assert chain.joined("lr") == reference.joined("lr")
    assert reference.joined()[-1] < 0.5 * reference.joined()[0]  # it learns: equal losses are not equal by standing still


@pytest.mark.parametrize("engine", SELECT)
def test_every_step_takes_the_same_samples_in_the_same_order(engine: str, chains: dict[str, Chain]) -> None:
    expected = [
        [draw(0, position, SAMPLES).sample for position in range(step * BATCH, (step + 1) * BATCH)] for step in range(STEPS)
    ]
    assert chains[engine].drawn() == chains["unbroken"].drawn() == expected


@pytest.mark.parametrize("engine", SELECT)
def test_the_final_metrics_agree(engine: str, chains: dict[str, Chain]) -> None:
    """Of the last weights, or of the best: those were saved on two ranks and are loaded on four."""
    validated = [json.loads(line) for line in (chains["unbroken"].place.path / "validated.jsonl").read_text().splitlines()]
    score = chains[engine].record["metrics"]["score"]["value"]
    expected = validated[-1 if SELECT[engine] == "last" else 0]["score"]
    assert score == pytest.approx(expected, rel=1e-5)
    assert chains[engine].record["metrics"]["held"]["value"] == pytest.approx(validated[-1]["held"], rel=1e-5)
    assert validated[0]["score"] > 1.2 * validated[-1]["score"]
    assert chains["unbroken"].record["metrics"]["score"]["value"] == pytest.approx(validated[-1]["score"], rel=1e-12)


@pytest.mark.parametrize("engine", SELECT)
def test_the_record_says_what_happened(engine: str, chains: dict[str, Chain]) -> None:
    record = chains[engine].record
    assert record["status"] == "completed"
    assert (record["engine"], record["ranks"]) == (engine, 2)  # what was asked for: the identity stays
    assert record["timing_valid"] is False
    attempts = record["attempts"]
    layouts = [(row["engine"], row["ranks"], row["micro_batch"]) for row in attempts]
    assert layouts == [(engine, 2, 4), (engine, 1, 4), (engine, 4, 2)]
    assert [row["failure"] for row in attempts] == ["cancelled", "cancelled", None]
    first, second = (attempt.failure() or {} for attempt in chains[engine].folder.attempts()[:2])
    assert (first["step"], second["step"]) == (10, 16)
    assert "asked to leave" in first["reason"]
    assert chains["unbroken"].record["timing_valid"] is True


@pytest.mark.parametrize(("engine", "wanted"), REFUSED.items())
def test_another_family_is_refused_before_anything_starts(engine: str, wanted: str, chains: dict[str, Chain]) -> None:
    ((status, said, attempts),) = chains[engine].said
    assert status in (1, 2)
    assert f"saved by {engine}, and {wanted} cannot go on from it: they keep optimiser states in forms" in said
    assert f"--with engine={engine}" in said
    assert "Traceback" not in said
    assert attempts == 1


def test_stage_2_goes_on_from_stage_1(chains: dict[str, Chain]) -> None:
    chain = chains["zero1-zero2"]
    assert [(row["engine"], row["ranks"]) for row in chain.record["attempts"]] == [("zero1", 2), ("zero2", 1)]
    assert chain.joined() == pytest.approx(chains["unbroken"].joined(), rel=1e-5)
    assert (chain.record["engine"], chain.record["timing_valid"]) == ("zero1", False)

"""A retriever in a process of its own: its cores and threads, how its end is noticed, that it never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from models.piperag.retrieving.backends import answer
from models.piperag.retrieving.faults import RetrievalLate, RetrieverGone
from models.piperag.retrieving.hosting import host_environment
from models.piperag.retrieving.process import ProcessRetriever
from models.piperag.types import RetrievalError
from results.errors import ConfigError
from tests.models.piperag.retrieving_backends import Flat
from tests.models.piperag.retrieving_support import ROOT, assert_same, gone, nothing_left_behind, opened, query, spec, until


def test_cores_and_threads_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set before anything is imported there; nothing of how the generator pins its threads is inherited."""
    core = max(os.sched_getaffinity(0))
    places = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
    for name in places:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = os.sched_getaffinity(0)
    with opened("process", spec(), cores=[core], threads=2) as retriever:
        facts = retriever.facts()
        assert isinstance(retriever, ProcessRetriever)
        assert (facts["pid"], facts["cores"]) == (retriever.pid, [core])
        assert facts["pid"] != os.getpid()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "2")
        variables = facts["variables"]
        assert isinstance(variables, dict)
        assert variables.items() >= {**threads, "OMP_WAIT_POLICY": "PASSIVE"}.items()
        assert not variables.keys() & set(places)
        openmp = [pool["num_threads"] for pool in facts["pools"] if pool["api"] == "openmp"]  # type: ignore[attr-defined]
        assert openmp
        assert set(openmp) == {2}
    assert os.sched_getaffinity(0) == before


def test_faiss_is_imported_only_where_it_searches() -> None:
    code = (
        "import sys\nfrom models.piperag.retrieving.backends import BackendSpec\n"
        "from models.piperag.retrieving.process import ProcessRetriever\n"
        "retriever = ProcessRetriever(BackendSpec('tests.models.piperag.retrieving_backends.Flat'))\n"
        "retriever.close()\nprint(sorted({'faiss', 'torch', 'zmq', 'mpi4py'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.parametrize(
    ("fault", "said"), [("kill", "was killed by SIGKILL"), ("exit", "ended with status 3"), ("leave", "ended with status 1")]
)
def test_its_end_is_noticed_at_once(fault: str, said: str) -> None:
    """By everybody who waits, long before the minute that they would wait."""
    with nothing_left_behind(), opened("process", spec("Faulty", faults={"1": fault})) as retriever:
        assert isinstance(retriever, ProcessRetriever)
        first = retriever.submit(query(0))
        failing, behind = retriever.submit(query(1)), retriever.submit(query(2))
        for pending in (behind, failing):
            with pytest.raises(RetrieverGone, match=said) as caught:
                pending.result()
            assert caught.value.where == f"retriever process {retriever.pid}"
        assert_same(first.result(), answer(Flat(), query(0)))  # what it had still said counts
        with pytest.raises(RetrieverGone, match=said):
            retriever.submit(query(3)).result()
        facts = retriever.facts()
        assert facts["pid"] == retriever.pid
        assert said in str(facts["unknown"])


@pytest.mark.parametrize(("fault", "said"), [("garbage", "none of tenfold's"), ("endless", "longer than the")])
def test_what_cannot_be_read_ends_it(fault: str, said: str) -> None:
    """Something writes into its stream; nothing after that can be trusted."""
    with nothing_left_behind(), opened("process", spec("Faulty", faults={"1": fault})) as retriever:
        with pytest.raises(RetrievalError, match=said):
            retriever.submit(query(1)).result()
        until(lambda: retriever.submit(query(2)).done() and retriever.gone is not None)
        with pytest.raises(RetrieverGone, match="was killed by SIGKILL"):
            retriever.submit(query(3)).result()


def test_its_end_is_noticed_though_somebody_else_keeps_the_stream_open(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with opened("process", spec("Faulty", faults={"1": "heir"}, note=str(note))) as retriever:
        with pytest.raises(RetrieverGone, match="ended with status 3"):
            retriever.submit(query(1)).result()
        os.kill(int(note.read_text()), signal.SIGKILL)


def test_its_end_between_queries_is_noticed_by_the_next() -> None:
    with opened("process", spec()) as retriever:
        assert isinstance(retriever, ProcessRetriever)
        os.kill(retriever.pid, signal.SIGKILL)
        with pytest.raises(RetrieverGone, match="SIGKILL"):
            retriever.submit(query(1)).result()


@pytest.mark.parametrize("fault", ["hang", "stop"])
def test_one_that_hangs_is_noticed_by_the_timeout_and_ended(fault: str) -> None:
    """A stopped process takes no signal but the last one."""
    with nothing_left_behind(), opened("process", spec("Faulty", faults={"1": fault}), timeout_s=0.2, grace_s=0.1) as retriever:
        assert isinstance(retriever, ProcessRetriever)
        with pytest.raises(RetrievalLate, match=r"within 0\.2 s"):
            retriever.submit(query(1)).result()
        # More than its stream holds: submitting does not wait for one that does not read.
        many = [retriever.submit(query(number, batch=4000)) for number in range(2, 8)]
        assert not any(pending.done() for pending in many)
        retriever.close()
        for pending in many:
            with pytest.raises(RetrieverGone, match="is closed"):
                pending.result()
        assert gone(retriever.pid)


def test_large_messages_pass_in_parts() -> None:
    """Both ways more than the stream holds, and several at once."""
    direct = Flat()
    with opened("process", spec()) as retriever:
        asked = [query(number, batch=4000, k=8) for number in range(4)]
        pending = [retriever.submit(one) for one in asked]
        for one, under_way in zip(asked, pending, strict=True):
            assert_same(under_way.result(), answer(direct, one))


def test_more_than_a_message_holds_is_refused() -> None:
    with opened("process", spec()) as retriever, pytest.raises(RetrievalError, match="too many for a message"):
        retriever.submit(query(batch=40_000, k=1))


def test_a_start_that_hangs_ends_with_its_timeout() -> None:
    with nothing_left_behind(), pytest.raises(RetrievalLate, match="who retrieves was not answered within"):
        ProcessRetriever(spec("Faulty", at_start="hang"), start_timeout_s=1.0, grace_s=0.1)


def test_cores_that_are_not_there_are_said() -> None:
    with nothing_left_behind(), pytest.raises(RetrievalError, match=r"cores \[4095\] cannot be used") as caught:
        ProcessRetriever(spec(), cores=[4095])
    assert "choose among 0 .." in caught.value.next_step
    for wrong in ({"threads": 0}, {"cores": []}):
        with pytest.raises(ConfigError, match="a thread and a core"):
            ProcessRetriever(spec(), **wrong)  # type: ignore[arg-type]


_PARENT = """
import sys, threading, time
from models.piperag.retrieving.backends import BackendSpec
from models.piperag.retrieving.process import ProcessRetriever
from tests.models.piperag.retrieving_support import query

def start():
    global retriever
    keywords = {"faults": {"1": sys.argv[3]}, "note": sys.argv[2]}
    retriever = ProcessRetriever(BackendSpec("tests.models.piperag.retrieving_backends.Faulty", keywords))

if sys.argv[1] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
else:
    start()
retriever.submit(query(0)).result()
pending = retriever.submit(query(1))
print(retriever.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize(("starter", "fault"), [("main", "hang"), ("main", "hold"), ("thread", "hang")])
def test_it_does_not_outlive_a_parent_that_is_killed_in_mid_search(starter: str, fault: str, tmp_path: Path) -> None:
    """Also where its own threads cannot run; also where a thread started it that has ended since: it lives as long as the
    process."""
    note = tmp_path / "note"
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, starter, str(note), fault],
        cwd=ROOT, env=host_environment(os.environ, 1), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until(lambda: note.exists() and note.read_text() == fault)
        assert not gone(pid)
        parent.kill()
        until(lambda: gone(pid))


def test_a_parent_that_just_ends_closes_it(tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = _PARENT.replace("time.sleep(3600)", "").replace("pending = retriever.submit(query(1))", "")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "main", str(note), ""], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    until(lambda: gone(int(done.stdout)))
    assert done.returncode == 0


def test_closing_lets_the_backend_close(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with opened("process", spec("Faulty", note=str(note)), grace_s=30) as retriever:
        retriever.submit(query(0)).result()
        retriever.close()
        assert note.read_text() == "closed"


def test_ctrl_c_in_a_terminal_leaves_it_to_its_parent() -> None:
    with opened("process", spec()) as retriever:
        assert isinstance(retriever, ProcessRetriever)
        os.kill(retriever.pid, signal.SIGINT)
        assert retriever.submit(query(1)).result().number == 1


def test_no_thread_of_ours_in_the_generators_process() -> None:
    before = psutil.Process().num_threads(), threading.active_count()
    with opened("process", spec()) as retriever:
        pending = retriever.submit(query(1))
        assert (psutil.Process().num_threads(), threading.active_count()) == before
        pending.result()


def test_a_wait_ends_with_its_timeout_also_while_other_answers_arrive() -> None:
    with opened("process", spec("Faulty", faults={"10": "late"}), grace_s=0.1) as retriever:
        first = [retriever.submit(query(number)) for number in range(10)]
        last = retriever.submit(query(10))
        begun = time.monotonic()
        with pytest.raises(RetrievalLate):
            last.result(timeout_s=0.3)
        assert time.monotonic() - begun < 10
        assert [pending.result().number for pending in first] == list(range(10))

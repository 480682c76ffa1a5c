"""The server's process: signals, kills and backends that end it while clients wait; the command that starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.piperag.retrieving import network, serving
from models.piperag.retrieving.faults import RetrievalLate, RetrieverGone
from models.piperag.retrieving.hosting import host_environment
from models.piperag.retrieving.serving import Server
from models.piperag.types import RetrievalError
from results.errors import RunError
from tests.models.piperag.retrieving_support import (
    ROOT,
    TOKEN,
    C,
    ServerProcess,
    assert_serves,
    connected,
    gone,
    nothing_left_behind,
    query,
    served,
    server,
    spec,
    until,
)

# Ends of the server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("fault", ["late", "hang"])
def test_a_signal_ends_it_and_whoever_waits_is_told(number: int, fault: str, tmp_path: Path) -> None:
    """Also in mid-search, also where the search never ends."""
    backend = spec("Faulty", faults={"1": fault}, gate=str(tmp_path / "gate"), note=str(tmp_path / "note"))
    with nothing_left_behind(), server(backend) as running, connected(running.address) as client:
        assert_serves(client, 0)
        pending, queued = client.submit(query(1)), client.submit(query(2))
        until(lambda: (tmp_path / "note").exists() and (tmp_path / "note").read_text() == fault)
        running.process.send_signal(number)
        for one in (pending, queued):
            with pytest.raises(RetrievalError, match="the server ends"):
                one.result()
        (tmp_path / "gate").touch()
        assert running.wait() == (0, "")
        if fault == "late":
            assert (tmp_path / "note").read_text() == "closed"


def test_an_idle_server_ends_at_a_signal_and_frees_its_port() -> None:
    with server(spec()) as running:
        assert running.ready == {"address": running.address, "pid": running.process.pid, "chunk_tokens": C}
        assert running.end() == (0, "")
        with served(spec(), bind=running.address) as again:
            assert again.address == running.address


def test_a_server_that_is_killed_is_noticed_at_once_and_may_come_back(tmp_path: Path) -> None:
    backend = spec("Faulty", faults={"1": "hang"}, note=str(tmp_path / "note"))
    with server(backend) as running, connected(running.address) as client:
        assert_serves(client, 0)
        pending = client.submit(query(1))
        until(lambda: (tmp_path / "note").exists() and (tmp_path / "note").read_text() == "hang")
        running.process.kill()
        with pytest.raises(RetrieverGone, match="has closed the connection, or has ended") as caught:
            pending.result()
        assert running.address in caught.value.where
        with pytest.raises(RetrieverGone):
            client.submit(query(2)).result()
        assert "unknown" in client.facts()
        running.process.wait()
        with served(spec(), bind=running.address):
            until(lambda: not client.submit(query(3)).done() or client.gone is None)
            assert_serves(client, 4)


@pytest.mark.parametrize("fault", ["kill", "exit"])
def test_a_backend_that_takes_the_server_down_is_noticed_at_once(fault: str) -> None:
    with server(spec("Faulty", faults={"1": fault})) as running, connected(running.address) as client:
        with pytest.raises(RetrieverGone):
            client.submit(query(1)).result()
        assert running.wait()[0] == (-9 if fault == "kill" else 3)


def test_a_backend_that_leaves_ends_the_server_with_its_reason() -> None:
    with server(spec("Faulty", faults={"1": "leave"})) as running, connected(running.address) as client:
        with pytest.raises(RetrievalError, match="SystemExit: on purpose"):
            client.submit(query(1)).result()
        code, errors = running.wait()
        assert code == 1
        assert "the backend raised SystemExit: on purpose" in errors
        assert "Traceback" not in errors


def test_a_server_that_is_stopped_is_noticed_by_its_heartbeat_or_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection stays: only that nothing comes tells."""
    monkeypatch.setattr(serving, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(serving, "HEARTBEAT_TIMEOUT_MS", 1000)
    with server(spec()) as running, connected(running.address) as client:
        running.process.send_signal(signal.SIGSTOP)
        with pytest.raises(RetrievalLate):
            client.submit(query(1)).result(timeout_s=0.2)
        with pytest.raises(RetrieverGone):
            client.submit(query(2)).result(timeout_s=30)


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import time\nfrom tests.models.piperag.retrieving_support import ServerProcess, spec\n"
        "running = ServerProcess(spec(), '--end-with-parent')\nprint(running.process.pid, flush=True)\ntime.sleep(3600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=host_environment(os.environ, 1), stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        until(lambda: gone(pid))


# The command ---------------------------------------------------------------------------------------------------------


def run(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "models.piperag.retrieving.network", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_explains_itself() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "examples:" in out
    assert "--token-file" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--backend", "nowhere.Flat"], 1, "'nowhere.Flat' cannot be imported"),
        (
            ["--backend", f"{__name__.rpartition('.')[0]}.retrieving_backends.Faulty", "--set", 'at_start="raise"'],
            1,
            "on purpose",
        ),
        (["--backend", "x.y", "--bind", "0.0.0.0:0"], 2, "no token to keep them out"),
        (["--backend", "x.y", "--bind", "somewhere"], 2, "is no address"),
        (["--backend", "x.y", "--set", "seed=[1"], 2, "is not KEY=JSON"),
        (["--backend", "x.y", "--set", "1"], 2, "is not KEY=JSON"),
        (["--backend", "x.y", "--cores", "4095"], 2, "cannot be used"),
        (["--backend", "x.y", "--cores", "0,one"], 2, "'0,one' is no list of cores"),
        (["--backend", "x.y", "--threads", "0"], 2, "needs a thread"),
        (["--backend", "x.y", "--token-file", "/no/such/file"], 2, "the token cannot be read"),
        (["--backend", "x.y", "--token-file", "/dev/null"], 2, "the token is empty"),
        ([], 2, "--backend"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(words: list[str], code: int, said: str) -> None:
    found, out, errors = run(*words)
    assert (found, out) == (code, "")
    assert said in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_said() -> None:
    with served(spec()) as running, nothing_left_behind(), pytest.raises(RunError, match="cannot listen on"):
        Server(spec(), bind=running.address)


def test_words_of_the_command_reach_the_server(tmp_path: Path) -> None:
    token, core = tmp_path / "token", max(os.sched_getaffinity(0))
    token.write_text(TOKEN + "\n")
    running = ServerProcess(spec(chunk_tokens=8), "--token-file", str(token), "--cores", str(core), "--threads", "2")
    try:
        with connected(running.address, token=network.read_token(token)) as client:
            facts = client.facts()
            assert (client.chunk_tokens, facts["cores"], facts["pid"]) == (8, [core], running.process.pid)
            assert facts["variables"]["OMP_NUM_THREADS"] == "2"  # type: ignore[index]
    finally:
        running.kill()

"""Variables of ranks: nothing of an enclosing job gets in, caches are of one environment, the user's own word stays."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers import environment as module
from launchers.environment import (
    CACHES,
    FOREIGN,
    TUNABLES,
    cache_variables,
    common_environment,
    free_port,
    import_path,
    rank_environment,
    rendezvous,
    without_foreign,
)
from launchers.request import RunRequest

NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=12)
REQUEST = RunRequest(folder=Path("/runs/a"), ranks=2, cores_per_rank=3)


@given(kept=st.dictionaries(NAMES, st.text(max_size=5)), dropped=st.dictionaries(st.sampled_from(FOREIGN), NAMES))
def test_foreign_variables_are_dropped_and_no_others(kept: dict[str, str], dropped: dict[str, str]) -> None:
    kept = {name: value for name, value in kept.items() if not name.startswith(FOREIGN)}
    foreign = {prefix + rest: "leaked" for prefix, rest in dropped.items()}
    assert without_foreign({**foreign, **kept}) == kept


@pytest.mark.parametrize(
    "name",
    [
        "SLURM_PROCID", "SLURM_JOB_ID", "SBATCH_PARTITION", "SRUN_CPUS_PER_TASK", "SUBMITIT_EXECUTOR", "PMI_RANK", "PMIX_RANK",
        "OMPI_COMM_WORLD_RANK", "MPI_LOCALRANKID", "HYDI_CONTROL_FD", "TORCHELASTIC_RUN_ID",
    ],
)  # fmt: skip
def test_what_an_enclosing_launcher_says_is_foreign(name: str) -> None:
    assert without_foreign({name: "7", "SLURMISH": "kept", "MY_SLURM_": "kept"}) == {"SLURMISH": "kept", "MY_SLURM_": "kept"}


def test_a_rank_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_PROCID", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "77")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/my/triton")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    found = rank_environment(REQUEST, 1, 4242)
    expected = rendezvous(rank=1, world=2, local_rank=1, local_world=2, address="127.0.0.1", port=4242)
    assert expected == {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "4242",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert [found[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")] == ["3", "3", "3"]
    assert "77" not in found.values()
    assert (found["TRITON_CACHE_DIR"], found["GLOO_SOCKET_IFNAME"]) == ("/my/triton", "lo")
    assert found["PATH"] == os.environ["PATH"]


def test_a_requests_own_variables_win_over_what_is_inherited() -> None:
    request = RunRequest(folder=Path("/runs/a"), environment={"A": "mine", "OMP_NUM_THREADS": "9"})
    found = common_environment(request, {"A": "theirs", "B": "kept"})
    assert (found["A"], found["B"], found["OMP_NUM_THREADS"], found["PYTHONFAULTHANDLER"]) == ("mine", "kept", "9", "1")


def test_the_allocators_settings_are_added_to_the_users() -> None:
    """A setting of theirs stays alone; what an enclosing worker has set is not set twice."""
    request = RunRequest(folder=Path("/runs/a"))
    lists, trim, mapped = TUNABLES.values()
    for theirs, found in (
        ("", [lists, trim, mapped]),
        ("glibc.malloc.arena_max=1", ["glibc.malloc.arena_max=1", lists, trim, mapped]),
        ("glibc.malloc.tcache_count=0", ["glibc.malloc.tcache_count=0", trim, mapped]),
        ("glibc.malloc.trim_threshold=1", ["glibc.malloc.trim_threshold=1", lists, mapped]),
        (":".join([lists, trim, mapped]), [lists, trim, mapped]),
    ):
        assert common_environment(request, {"GLIBC_TUNABLES": theirs})["GLIBC_TUNABLES"] == ":".join(found)
    assert common_environment(request, {})["GLIBC_TUNABLES"] == ":".join([lists, trim, mapped])


STEPS_OF_TENSORS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def step():
    held = []
    for _ in range(64):
        block = ctypes.c_void_p()
        libc.posix_memalign(ctypes.byref(block), 64, 1 << 20)
        libc.memset(block, 1, 1 << 20)
        held.append(block)
    for block in held:
        libc.free(block)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are settings of glibc")
def test_the_heap_is_kept_between_steps() -> None:
    """64 MiB written and freed five times: pages that were given back would be asked for again, 16,384 of them at every step."""

    def faults(environment: dict[str, str]) -> int:
        command = [sys.executable, "-c", STEPS_OF_TENSORS]
        return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    assert faults(common_environment(RunRequest(folder=Path("/runs/a")), inherited)) < 1000
    assert faults({**inherited, "GLIBC_TUNABLES": TUNABLES["glibc.malloc.tcache"]}) > 5 * 16_000


def test_ranks_import_the_code_that_launched_them(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(module.__file__).resolve().parents[1])
    monkeypatch.setattr(module, "__file__", f"{root}/launchers/environment.py")
    assert import_path({}) == {"PYTHONPATH": root}
    assert import_path({"PYTHONPATH": "/mine"}) == {"PYTHONPATH": f"{root}{os.pathsep}/mine"}
    monkeypatch.setattr(module, "__file__", "/opt/env/lib/python3.11/site-packages/launchers/environment.py")
    assert import_path({"PYTHONPATH": "/mine"}) == {}  # installed: found without help


# Caches --------------------------------------------------------------------------------------------------------------


def test_caches_are_of_one_python_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extensions compiled by one environment fit no other."""
    mine = cache_variables({}, tmp_path)
    assert set(mine) == set(CACHES)
    assert len({Path(path).parent for path in mine.values()}) == 1
    assert all(Path(path).is_relative_to(tmp_path) for path in mine.values())
    assert cache_variables({}, tmp_path) == mine
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert not set(cache_variables({}, tmp_path).values()) & set(mine.values())


def test_caches_lie_on_the_node_and_belong_to_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    found = cache_variables({})
    assert all(Path(path).is_relative_to(tmp_path / f"tenfold-{os.getuid()}" / "caches") for path in found.values())


@pytest.mark.parametrize("name", sorted(CACHES))
def test_a_cache_that_the_user_has_set_stays(name: str, tmp_path: Path) -> None:
    found = cache_variables({name: "/mine"}, tmp_path)
    assert found[name] == "/mine"
    assert all(Path(path).is_relative_to(tmp_path) for other, path in found.items() if other != name)


def test_a_free_port_can_be_listened_on() -> None:
    ports = {free_port() for _ in range(5)}
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))

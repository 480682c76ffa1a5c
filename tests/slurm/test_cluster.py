"""The loopback cluster does what a cluster does, dies as one, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

from launchers.cluster import LoopbackCluster, processes
from launchers.site import SiteProfile, sites_folder
from results.errors import EXIT_BUSY, EXIT_OK, EXIT_RUN_FAILED, ConfigError, LaunchError
from tests.slurm.conftest import require_slurm
from tests.slurm.support import accounted, job_state, slurm_words, submit, wait_for, wait_state
from tests.support import Workplace

pytestmark = pytest.mark.slurm

#: Its first attempt would run for ever, every later one ends at once.
ONCE = 'echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"; [ "${SLURM_RESTART_COUNT:-0}" = 0 ] && sleep 1000; exit 0'


@dataclass
class Trials:
    """Jobs to which different things happened at the same time, and what was seen while it did."""

    folder: Path
    jobs: dict[str, str] = field(default_factory=dict)
    seen: dict[str, object] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)

    def output(self, name: str) -> list[str]:
        path = self.folder / f"{self.jobs[name]}.out"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def trials(slurm: LoopbackCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """Requeue on n1, preemption on n4, death of n3, a controller restarted over a job of n2: their waits overlap."""
    found = Trials(tmp_path_factory.mktemp("trials"))
    try:
        _try(slurm, found)
        yield found
    finally:
        slurm_words(slurm, "scancel", *found.jobs.values(), expect=None)


def _try(slurm: LoopbackCluster, found: Trials) -> None:
    where = {"requeued": ("n1", "1"), "steady": ("n2", "1"), "orphaned": ("n3", "1"), "preempted": ("n4", "2")}
    for name, (node, cpus) in where.items():
        script = "sleep 12; echo steady" if name == "steady" else ONCE
        flags = ("-p", "main", "-w", node, "-N1", "-n1", "-c", cpus, "--requeue")
        found.jobs[name] = submit(slurm, script, *flags, folder=found.folder)
    for name in where:
        wait_state(slurm, found.jobs[name], "RUNNING")
        wait_for(lambda name=name: name == "steady" or bool(found.output(name)), f"first line of {name}")  # type: ignore[misc]

    slurm_words(slurm, "scontrol", "requeue", found.jobs["requeued"])
    found.jobs["urgent"] = submit(slurm, "true", "-p", "high", "-w", "n4", "-N1", "-n1", "-c2", folder=found.folder)
    slurm.restart_controller()
    found.seen["steady after restart"] = job_state(slurm, found.jobs["steady"])
    slurm.stop_node("n3")
    found.seen["processes of n3"] = processes.belonging(slurm.folder, slurm.layout.slurm_conf, names=["n3"])
    died = time.monotonic()
    wait_for(lambda: slurm.node("n3").state.startswith("down"), "n3 is seen to be down")
    found.took_s["down"] = time.monotonic() - died
    found.seen["status with a dead node"] = slurm.status()
    wait_for(lambda: job_state(slurm, found.jobs["orphaned"]) == "PENDING", "the dead node's job is queued again")
    slurm.start_node("n3")
    for job in found.jobs.values():
        wait_state(slurm, job, "COMPLETED")
    slurm.wait_ready()


def test_requeued_by_an_administrator_it_runs_again(slurm: LoopbackCluster, trials: Trials) -> None:
    assert trials.output("requeued")[0] == "attempt 0 on n1"
    assert trials.output("requeued")[-1] == "attempt 1 on n1"
    states = [row[0] for row in accounted(slurm, trials.jobs["requeued"], "State")]
    assert states == ["REQUEUED", "COMPLETED"]


def test_a_job_of_higher_priority_preempts_and_the_preempted_one_runs_again(slurm: LoopbackCluster, trials: Trials) -> None:
    assert [line for line in trials.output("preempted") if line.startswith("attempt")] == ["attempt 0 on n4", "attempt 1 on n4"]
    rows = accounted(slurm, trials.jobs["preempted"], "State", "Start", "End")
    assert [row[0] for row in rows] == ["PREEMPTED", "COMPLETED"]
    ((_, start, end),) = accounted(slurm, trials.jobs["urgent"], "State", "Start", "End")
    assert rows[0][2] <= start  # ISO times sort
    assert end <= rows[1][1]


def test_a_dead_node_is_seen_down_and_its_job_runs_again(slurm: LoopbackCluster, trials: Trials) -> None:
    assert trials.seen["processes of n3"] == []
    assert trials.output("orphaned")[-1] == "attempt 1 on n3"
    assert [row[0] for row in accounted(slurm, trials.jobs["orphaned"], "State")] == ["NODE_FAIL", "COMPLETED"]
    settings, _ = slurm.facts()
    assert trials.took_s["down"] < 3 * settings.node_timeout_s


def test_status_says_what_is_missing(slurm: LoopbackCluster, trials: Trials) -> None:
    status = trials.seen["status with a dead node"]
    assert (status.state, status.controller, status.accounting) == ("partial", True, True)  # type: ignore[attr-defined]
    assert [name for name, pid in status.daemons.items() if pid is None] == ["n3"]  # type: ignore[attr-defined]
    assert [node.name for node in status.nodes if not node.works] == ["n3"]  # type: ignore[attr-defined]
    now = slurm.status()
    assert now.state == "up"
    for pid in now.daemons.values():
        assert pid is not None
        assert psutil.Process(pid).environ()[processes.MARK_CLUSTER] == str(slurm.folder)


def test_a_job_runs_on_while_the_controller_is_away(slurm: LoopbackCluster, trials: Trials) -> None:
    assert trials.seen["steady after restart"] == "RUNNING"
    assert trials.output("steady") == ["steady"]
    assert [row[0] for row in accounted(slurm, trials.jobs["steady"], "State")] == ["COMPLETED"]


def test_a_step_spans_nodes_and_its_memory_is_accounted(slurm: LoopbackCluster, tmp_path: Path) -> None:
    hold = "python3 -c 'import time; held = bytearray(200 << 20); time.sleep(2.5)'"
    script = f"srun --label bash -c 'echo $SLURMD_NODENAME $SLURM_PROCID $SLURM_NTASKS'; srun -N1 -n1 {hold}"
    job = submit(slurm, script, "-N2", "-n4", "--mem=300M", folder=tmp_path)
    wait_state(slurm, job, "COMPLETED")
    lines = sorted(line.split(": ")[1].split() for line in (tmp_path / f"{job}.out").read_text().splitlines())
    assert sorted(int(rank) for _, rank, _ in lines) == [0, 1, 2, 3]
    assert len({node for node, _, _ in lines}) == 2
    assert {size for _, _, size in lines} == {"4"}
    rss = {row[0]: row[1] for row in accounted(slurm, job, "JobID", "MaxRSS", steps=True)}
    assert 200 * 2**20 <= int(rss[f"{job}.1"]) < 300 * 2**20


def test_tasks_of_an_array_run_under_its_throttle(slurm: LoopbackCluster, tmp_path: Path) -> None:
    job = submit(slurm, f"touch {tmp_path}/task-$SLURM_ARRAY_TASK_ID; sleep 0.3", "--array=0-5%2", "-n1", folder=tmp_path)
    at_once = []

    def ended() -> bool:
        rows = accounted(slurm, job, "State")
        running = slurm_words(slurm, "squeue", "--noheader", "--array", "--states=R", "--jobs", job, expect=None)
        at_once.append(len(running.splitlines()))
        return [state for (state,) in rows] == ["COMPLETED"] * 6

    wait_for(ended, "six tasks are accounted as completed")
    assert sorted(path.name for path in tmp_path.glob("task-*")) == [f"task-{index}" for index in range(6)]
    assert 1 <= max(at_once) <= 2


def test_jobs_are_accounted_that_ran_while_accounting_was_away(slurm: LoopbackCluster, tmp_path: Path) -> None:
    slurm.stop_accounting()
    try:
        status = slurm.status()
        assert (status.state, status.accounting, status.controller) == ("partial", False, True)
        job = submit(slurm, "true", folder=tmp_path)
        wait_state(slurm, job, "COMPLETED")
    finally:
        slurm.start_accounting()
    wait_for(lambda: [row[0] for row in accounted(slurm, job, "State")] == ["COMPLETED"], "accounting has caught up")
    slurm.wait_ready()


def test_steps_live_through_a_restart_of_their_nodes_daemon(slurm: LoopbackCluster, tmp_path: Path) -> None:
    job = submit(slurm, "sleep 2; echo lived", "-w", "n2", folder=tmp_path)
    wait_state(slurm, job, "RUNNING")
    before = slurm.status().daemons["n2"]
    slurm.stop_node("n2", kill=False)
    slurm.start_node("n2")
    assert slurm.status().daemons["n2"] not in (None, before)
    wait_state(slurm, job, "COMPLETED")
    assert (tmp_path / f"{job}.out").read_text() == "lived\n"


def test_everything_listens_on_loopback(slurm: LoopbackCluster) -> None:
    listening = {
        connection.laddr
        for process in processes.belonging(slurm.folder, slurm.layout.slurm_conf)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    _, ports = slurm.facts()
    assert {port for _, port in listening} >= {ports.controller, ports.accounting, *ports.nodes.values()}
    if slurm.status().loopback_only:
        assert {address.split(".")[0] for address, _ in listening} == {"127"}


def test_the_profile_of_the_cluster_is_written(slurm: LoopbackCluster) -> None:
    profile = SiteProfile(**yaml.safe_load((sites_folder() / "loopback.yaml").read_text()))
    assert (profile.name, profile.scheduler, profile.shared_machine) == ("loopback", "slurm", True)
    assert profile.slurm_conf == str(slurm.layout.slurm_conf)
    assert set(profile.partitions) == {"main", "high"}
    assert profile.array_throttle == len(os.sched_getaffinity(0))


# -- clusters of their own -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(slurm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a further cluster, with profiles of its own; whatever a test leaves there is killed."""
    require_slurm()
    folder = slurm_folder / f"p{len(list(slurm_folder.glob('p*')))}"
    folder.mkdir()
    monkeypatch.setenv("TENFOLD_CONFIG", str(folder / "config"))
    yield folder
    if (folder / "c").exists():
        LoopbackCluster(folder / "c").down()


def test_up_and_down_leave_no_process_and_no_file(place: Path, workplace: Workplace) -> None:
    """Typed as a user would, with a job that leaves children, shared memory and a process of another session behind."""
    folder = ("--folder", str(place / "c"))
    up = workplace.json("cluster", "up", "--nodes", "2", "--no-accounting", *folder)
    assert (up["state"], up["accounting"]) == ("up", None)
    again = workplace.tenfold("cluster", "up", *folder, expect=EXIT_BUSY)
    assert "is up already" in again.stderr
    assert workplace.json("cluster", "status", *folder)["state"] == "up"

    cluster = LoopbackCluster(place / "c")
    shared = Path(f"/dev/shm/tenfold-test-{os.getpid()}")
    hold = f"f = open({str(shared)!r}, 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096)"
    code = f"import mmap, time; {hold}; time.sleep(1000)"
    script = f'setsid sleep 1001 & python3 -c "{code}" & srun -N2 -n2 sleep 1002'
    job = submit(cluster, script, "-N2", "-n2", folder=place)
    wait_state(cluster, job, "RUNNING")
    wait_for(
        lambda: shared.exists() and len(_sleepers(cluster, "1002")) == 4 and len(_sleepers(cluster, "1001")) == 1,
        "the job's parts",
    )
    everything = processes.belonging(cluster.folder, cluster.layout.slurm_conf)
    assert len(everything) >= 4 + 3

    workplace.tenfold("cluster", "down", *folder)
    assert not [process for process in everything if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not _sleepers(cluster, "1001")
    assert not shared.exists()
    assert sorted(path.name for path in place.iterdir()) == [f"{job}.out"]  # the job's own output
    assert workplace.json("cluster", "status", *folder, expect=EXIT_RUN_FAILED)["state"] == "down"
    twice = workplace.tenfold("cluster", "down", *folder, expect=EXIT_OK)
    assert "there is no cluster" in twice.stdout


def _sleepers(cluster: LoopbackCluster, seconds: str) -> list[int]:
    """Processes of the cluster's jobs whose command line ends so (``srun -n2 sleep 1002`` is one, too)."""
    conf = str(cluster.layout.slurm_conf)
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[-1] == seconds and processes.environment_of(process).get("SLURM_CONF") == conf
    ]


def test_a_cluster_that_does_not_start_says_why_and_leaves_nothing(place: Path) -> None:
    cluster = LoopbackCluster(place / "c")
    with pytest.raises(LaunchError, match="SchedulerType=sched/nosuch|sched/nosuch"):
        cluster.up(nodes=1, accounting=False, extra_lines=("SchedulerType=sched/nosuch",))
    assert list(place.iterdir()) == []
    assert processes.belonging(cluster.folder, cluster.layout.slurm_conf) == []


def test_what_a_reboot_leaves_is_taken_over(place: Path) -> None:
    cluster = LoopbackCluster(place / "c")
    cluster.up(nodes=1, accounting=False)
    assert processes.kill_all(cluster.folder, cluster.layout.slurm_conf) == []
    assert cluster.status().state == "down"
    assert cluster.up(nodes=1, accounting=False).state == "up"
    other = LoopbackCluster(place / "d")
    with pytest.raises(LaunchError, match="belongs to another cluster"):
        other.up(nodes=1, accounting=False)
    assert not other.folder.exists()
    assert cluster.down()
    assert not cluster.down()


def test_a_folder_with_other_things_in_it_is_refused(place: Path) -> None:
    (place / "c").mkdir()
    (place / "c" / "thesis.tex").write_text("years of work")
    cluster = LoopbackCluster(place / "c")
    for action in (cluster.up, cluster.down):
        with pytest.raises(ConfigError, match="not a cluster of yours"):
            action()
    assert (place / "c" / "thesis.tex").read_text() == "years of work"
    (place / "c" / "thesis.tex").unlink()
    (place / "c").rmdir()


def test_missing_programs_are_named_with_the_command_that_installs_them(
    slurm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = slurm_folder / "missing"
    monkeypatch.setattr("launchers.cluster.programs.search_path", lambda: str(slurm_folder))
    with pytest.raises(LaunchError) as caught:
        LoopbackCluster(folder).up()
    for word in ("slurmctld", "munged", "mariadbd", "make system"):
        assert word in str(caught.value)
    assert not folder.exists()


def test_a_shell_that_started_it_may_go(place: Path, workplace: Workplace) -> None:
    """The daemons are in sessions of their own and hold none of the starter's files, terminal or folder."""
    words = workplace.command("cluster", "up", "--nodes", "1", "--no-accounting", "--json", "--folder", str(place / "c"))
    started = subprocess.Popen(
        words,
        cwd=workplace.path,
        env=workplace.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    text, _ = started.communicate(timeout=60)  # returns only when nobody holds the pipe any more
    status = json.loads(text)
    for pid in status["daemons"].values():
        daemon = psutil.Process(pid)
        assert os.getsid(pid) == pid
        assert daemon.terminal() is None
        assert not Path(daemon.cwd()).is_relative_to(workplace.path)
    assert LoopbackCluster(place / "c").status().state == "up"

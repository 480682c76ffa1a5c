"""Accounting: recorded answers of Slurm 22.05.8, forms by the manual that it did not print, clusters that do not answer."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from launchers.accounting import Accounting, match_attempt, sacct_rows
from launchers.sacct import DELIMITER, FIELDS, JobAccount, JobId, parse
from launchers.sacct_text import expand_indices, expand_nodes, size_bytes, tres

RECORDED = (Path(__file__).parent / "recorded" / "sacct-22.05.8.txt").read_text()
MIB = 2**20


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def table(*rows: dict[str, str], fields: tuple[str, ...] = FIELDS) -> str:
    lines = [DELIMITER.join(fields), *(DELIMITER.join(row.get(name, "") for name in fields) for row in rows)]
    return "\n".join(lines) + "\n"


def one(**row: str) -> JobAccount:
    (found,) = parse(table({"JobID": "7", "State": "COMPLETED", **row}))
    return found


@pytest.fixture(scope="module")
def jobs() -> dict[str, list[JobAccount]]:
    found: dict[str, list[JobAccount]] = {}
    for job in parse(RECORDED):
        found.setdefault(job.job_id, []).append(job)
    return found


# Recorded ------------------------------------------------------------------------------------------------------------


def test_a_job_on_two_nodes(jobs: dict[str, list[JobAccount]]) -> None:
    (job,) = jobs["1"]
    assert (job.name, job.comment) == ("we|ird", "sys|dlwp éx")
    assert (job.state, job.exit_code, job.signal, job.cancelled_by) == ("COMPLETED", 0, None, "")
    assert (job.submitted, job.started, job.ended) == (at(1795473100), at(1795473101), at(1795473104))
    assert (job.elapsed_s, job.timelimit_s, job.queue_wait_s) == (3.0, 300.0, 1.0)
    assert job.alloc_tres == job.req_tres == {"billing": 2, "cpu": 2, "mem_bytes": 12052 * MIB, "node": 2}
    assert (job.nodes, job.node_list, job.energy_j) == (2, ("n1", "n2"), None)
    batch, step = job.steps
    assert (batch.step, batch.max_rss_bytes, batch.ntasks) == ("batch", 12562432, 1)
    assert (step.step, step.max_rss_bytes, step.max_rss_node, step.max_rss_task) == ("0", 73756672, "n2", 1)
    assert (step.ave_rss_bytes, step.ntasks) == (73725952, 2)
    assert job.max_rss_bytes == 73756672


def test_how_jobs_end(jobs: dict[str, list[JobAccount]]) -> None:
    ends = {name: (lives[-1].state, lives[-1].exit_code, lives[-1].signal) for name, lives in jobs.items()}
    assert ends["3"] == ("FAILED", 0, 9)
    assert ends["17"] == ("FAILED", 3, None)
    assert ends["4"] == ("CANCELLED", 0, None)
    assert (jobs["4"][0].cancelled_by, jobs["4"][0].steps[0].signal) == ("0", 15)
    assert jobs["3"][0].max_rss_bytes is None  # it was gone before anybody looked


def test_the_lives_of_a_requeued_job(jobs: dict[str, list[JobAccount]]) -> None:
    lives = jobs["5"]  # other jobs' lines lie between them
    assert [(life.state, life.restarts) for life in lives] == [("REQUEUED", 0), ("PREEMPTED", 1), ("RUNNING", 2)]
    assert [[step.step for step in life.steps] for life in lives] == [["batch", "0"]] * 3
    assert [life.steps[1].max_rss_bytes for life in lives] == [1695744, 1601536, None]
    assert lives[1].reason == "BeginTime"
    assert [life.queue_wait_s for life in lives] == [5.0, 1.0, 1.0]  # from eligible: a requeued job is held on purpose
    assert lives[2].ended is None
    assert lives[2].timelimit_s is None


def test_what_has_not_started(jobs: dict[str, list[JobAccount]]) -> None:
    (held,) = jobs["7"]
    assert (held.state, held.reason, held.queue_wait_s, held.node_list, held.timelimit_s) == (
        "PENDING", "JobHeldUser", None, (), None,
    )  # fmt: skip
    (never,) = jobs["14"]
    assert (never.state, never.started, never.ended) == ("CANCELLED", None, at(1795473275))
    (rest,) = jobs["15_[4-7%1]"]
    assert (rest.id.base, rest.id.index, rest.id.pending, rest.state) == (15, None, (4, 5, 6, 7), "PENDING")


def test_tasks_and_components(jobs: dict[str, list[JobAccount]]) -> None:
    (first,), (last,) = jobs["16_0"], jobs["16_2"]
    assert [(job.id.base, job.id.index, job.raw_id) for job in (first, last)] == [(16, 0, 20), (16, 2, 16)]
    (leader,), (other,) = jobs["12+0"], jobs["12+1"]
    assert [(job.id.het, job.raw_id, job.node_list) for job in (leader, other)] == [(0, 12, ("n1",)), (1, 13, ("n2",))]
    assert (len(leader.steps), len(other.steps)) == (2, 0)


def test_plain_form_is_json_with_zoned_times(jobs: dict[str, list[JobAccount]]) -> None:
    plain = json.loads(json.dumps(jobs["1"][0].as_dict()))
    assert plain["started"] == "2026-11-23T22:31:41+00:00"
    assert plain["steps"][1]["ended"] == "2026-11-23T22:31:44+00:00"
    assert (plain["queue_wait_s"], plain["max_rss_bytes"], plain["node_list"]) == (1.0, 73756672, ["n1", "n2"])


# Forms by the manual --------------------------------------------------------------------------------------------------


def test_an_old_sacct_knows_fewer_fields() -> None:
    fields = ("JobID", "State")
    (job,) = parse(table({"JobID": "3", "State": "TIMEOUT"}, {"JobID": "3.batch", "State": "CANCELLED"}, fields=fields))
    assert (job.state, job.started, job.elapsed_s, job.node_list, job.alloc_tres, job.restarts) == (
        "TIMEOUT",
        None,
        None,
        (),
        {},
        0,
    )
    assert job.steps[0].max_rss_bytes is None


def test_a_new_sacct_counts_restarts_itself() -> None:
    assert [job.restarts for job in parse(table({"JobID": "3", "Restarts": "4"}, {"JobID": "3", "Restarts": "5"}))] == [4, 5]


@pytest.mark.parametrize(
    ("text", "state", "by"),
    [("CANCELLED by 1000", "CANCELLED", "1000"), ("CANCELLED by a.user", "CANCELLED", "a.user"), ("CANCELLED+", "CANCELLED", ""),
     ("OUT_OF_MEMORY", "OUT_OF_MEMORY", ""), ("NODE_FAIL", "NODE_FAIL", ""), ("", "", "")],
)  # fmt: skip
def test_states(text: str, state: str, by: str) -> None:
    job = one(State=text)
    assert (job.state, job.cancelled_by) == (state, by)


@pytest.mark.parametrize(
    ("energy", "known"),
    [("0", None), ("", None), ("18446744073709551614", None), ("36000", 36000.0), ("9999999999", None)],
)
def test_energy_that_cannot_be_is_unknown(energy: str, known: float | None) -> None:
    assert one(ConsumedEnergyRaw=energy, ElapsedRaw="100", NNodes="2").energy_j == known


def test_local_times_of_a_sacct_that_knows_no_other() -> None:
    found = one(Start="2026-07-01T12:00:00", End="Unknown", Submit="None", Eligible="0").started
    assert found == datetime(2026, 7, 1, 12).astimezone(UTC)
    assert found is not None
    assert found.tzinfo is not None


def test_wait_counts_from_submission_where_eligibility_is_unknown() -> None:
    assert one(Submit="100", Eligible="Unknown", Start="160").queue_wait_s == 60
    assert one(Submit="100", Eligible="130", Start="160").queue_wait_s == 30


@pytest.mark.parametrize(
    ("text", "size"),
    [("12562432", 12562432), ("9216K", 9216 * 1024), ("1.50G", 3 * 2**29), ("7M", 7 * MIB), ("4000Mn", 4000 * MIB), ("", None),
     ("16?", None)],
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    assert size_bytes(text) == size


def test_trackable_resources() -> None:
    assert tres("cpu=8,mem=32G,node=1,billing=8,gres/gpu=2,gres/gpu:a100=2") == {
        "cpu": 8, "mem_bytes": 32 * 2**30, "node": 1, "billing": 8, "gres/gpu": 2, "gres/gpu:a100": 2,
    }  # fmt: skip
    assert tres("mem=100") == {"mem_bytes": 100 * MIB}
    assert tres("") == {}
    assert tres("cpu=,odd,mem=x") == {}


@pytest.mark.parametrize(
    ("text", "indices"),
    [("3-7%2", (3, 4, 5, 6, 7)), ("1,4-6", (1, 4, 5, 6)), ("0-8:4%1", (0, 4, 8)), ("1,3,...", (1, 3)), ("", ())],
)
def test_array_indices(text: str, indices: tuple[int, ...]) -> None:
    assert expand_indices(text) == indices


@pytest.mark.parametrize(
    ("text", "names"),
    [("n1", ("n1",)), ("n[1-3]", ("n1", "n2", "n3")), ("n[08-10,7]-ib,login", ("n08-ib", "n09-ib", "n10-ib", "n7-ib", "login")),
     ("r[1-2]c[0-1]", ("r1c0", "r1c1", "r2c0", "r2c1")), ("None assigned", ()), ("", ()), ("n[a-b]", ("na-b",)),
     ("n[1", ("n[1",))],
)  # fmt: skip
def test_node_lists(text: str, names: tuple[str, ...]) -> None:
    assert expand_nodes(text) == names


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 6)), min_size=1, max_size=4), st.integers(1, 4))
def test_node_lists_against_padding_by_hand(ranges: list[tuple[int, int]], width: int) -> None:
    inside = ",".join(f"{first:0{width}d}-{first + more}" for first, more in ranges)
    expected = []
    for first, more in ranges:  # as wide as the first number is written
        digits = max(width, len(str(first)))
        expected += ["n" + str(number).rjust(digits, "0") for number in range(first, first + more + 1)]
    assert list(expand_nodes(f"n[{inside}]")) == expected


IDS = st.builds(
    JobId,
    base=st.integers(1, 10**9),
    index=st.none() | st.integers(0, 4_000_000),
    step=st.sampled_from(["", "batch", "extern", "interactive", "0", "17"]),
)


@given(IDS)
def test_numbers_read_back(identity: JobId) -> None:
    task = "" if identity.index is None else f"_{identity.index}"
    step = f".{identity.step}" if identity.step else ""
    assert JobId.parse(f"{identity.base}{task}{step}") == identity


@example("0\x1e")
@given(st.text(max_size=40))
def test_no_text_is_an_exception(text: str) -> None:
    JobId.parse(text)
    for job in parse(text) + parse(table(*({name: text.replace(DELIMITER, "") for name in FIELDS} | {"JobID": "5"},))):
        job.as_dict()
    expand_nodes(text)
    tres(text)


NAMES = st.text(st.characters(blacklist_characters=DELIMITER, blacklist_categories=("Cs",)), max_size=20)


@given(st.lists(NAMES, min_size=1, max_size=5))
def test_names_with_line_breaks_and_bars_stay_whole(names: list[str]) -> None:
    rows = [{"JobID": str(number), "JobName": name, "State": "COMPLETED"} for number, name in enumerate(names, start=1)]
    assert [(job.job_id, job.name, job.state) for job in parse(table(*rows))] == [
        (str(number), name, "COMPLETED") for number, name in enumerate(names, start=1)
    ]


# Which life is an attempt's --------------------------------------------------------------------------------------------


def test_an_attempt_lies_in_the_life_that_contains_its_start(jobs: dict[str, list[JobAccount]]) -> None:
    everything = [job for lives in jobs.values() for job in lives]
    lives = jobs["5"]
    for life in lives:
        assert life.started is not None
        for after in (0, 2, 40):
            assert match_attempt(everything, 5, life.started + timedelta(seconds=after)) is life
        assert match_attempt(everything, "5", life.started - timedelta(seconds=2)) is life  # a clock that is late
    assert lives[0].ended is not None
    assert match_attempt(everything, 5, lives[0].ended) is lives[0]
    assert match_attempt(everything, 5, at(1795473100 - 3600)) is None
    assert match_attempt(everything, 7, at(1795473200)) is None  # it never started
    assert match_attempt(everything, 999, at(1795473200)) is None
    elsewhere = lives[1].started
    assert elsewhere is not None
    assert match_attempt(everything, 5, elsewhere.astimezone()) is lives[1]
    with pytest.raises(ValueError, match="zone"):
        match_attempt(everything, 5, datetime(2026, 1, 5))


def test_a_task_is_found_by_either_of_its_numbers(jobs: dict[str, list[JobAccount]]) -> None:
    everything = [job for lives in jobs.values() for job in lives]
    start = at(1795473266)
    assert match_attempt(everything, "16_0", start) is jobs["16_0"][0]
    assert match_attempt(everything, "20", start) is jobs["16_0"][0]
    assert match_attempt(everything, "16_2", start) is jobs["16_2"][0]
    assert match_attempt(everything, "15", start) is None  # raw number of the tasks that wait


@given(st.lists(st.tuples(st.integers(30, 500), st.integers(30, 500)), min_size=1, max_size=5), st.data())
def test_lives_apart_are_told_apart(spans: list[tuple[int, int]], data: st.DataObject) -> None:
    rows, clock = [], 1_000_000
    for gap, length in spans:
        rows.append({"JobID": "9", "Start": str(clock + gap), "End": str(clock + gap + length)})
        clock += gap + length
    lives = parse(table(*rows))
    chosen = data.draw(st.integers(0, len(lives) - 1))
    started, ended = lives[chosen].started, lives[chosen].ended
    assert started is not None
    assert ended is not None
    inside = started + timedelta(seconds=data.draw(st.integers(0, int((ended - started).total_seconds()))))
    assert match_attempt(lives, "9", inside) is lives[chosen]


# Asking --------------------------------------------------------------------------------------------------------------


def fake_sacct(folder: Path, script: str) -> dict[str, str]:
    """A command that answers as told and counts how often it was asked."""
    path = folder / "sacct"
    path.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/asked"\n{script}\n')
    path.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    return path.read_text().splitlines() if path.exists() else []


ANSWERS = f'[ "$1" = --helpformat ] && echo "{" ".join(FIELDS)}" && exit 0\ncat "$(dirname "$0")/answer"\n'


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("Slurm accounting storage is disabled", "unknown: this cluster keeps no accounting (AccountingStorageType)"),
        (
            "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:127.0.0.1:6819: "
            "Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n"
            "sacct: error: Problem talking to the database: Connection refused",
            "unknown: the accounting database does not answer (slurmdbd)",
        ),
        ("sacct: fatal: Unable to process configuration file", "unknown: Unable to process configuration file"),
        ("", "unknown: sacct failed and gave no reason"),
    ],
)
def test_a_cluster_that_does_not_answer_is_found_out_once(tmp_path: Path, stderr: str, reason: str) -> None:
    accounting = Accounting(fake_sacct(tmp_path, f"printf '%s' '{stderr}' >&2; exit 1"))
    for _ in range(3):
        found = accounting.rows([1, "2_3"])
        assert (found.jobs, found.unknown) == ((), reason)
    assert asked(tmp_path) == ["--helpformat"]


def test_no_sacct_at_all_and_one_that_hangs(tmp_path: Path) -> None:
    assert sacct_rows([1], environment={"PATH": str(tmp_path)}).unknown == "unknown: there is no sacct on this machine"
    hanging = sacct_rows([1], environment=fake_sacct(tmp_path, "exec sleep 60"), timeout_s=0.3)
    assert hanging.unknown == "unknown: sacct did not answer within 0.3 s"
    (tmp_path / "sacct").chmod(0o644)
    assert sacct_rows([1], environment={"PATH": str(tmp_path)}).unknown.startswith("unknown: ")


def test_one_question_for_many_jobs(tmp_path: Path) -> None:
    environment = fake_sacct(tmp_path, ANSWERS)
    (tmp_path / "answer").write_text(RECORDED)
    accounting = Accounting(environment)
    found = accounting.rows(["5", 1, "15_4", "12+1", "16_2", "16_0", "not a job"])
    assert [job.job_id for job in found.jobs] == ["1", "5", "5", "12+1", "5", "15_[4-7%1]", "16_0", "16_2"]
    assert found.unknown == ""
    assert sorted(job.job_id for job in accounting.rows([12, "20"]).jobs) == ["12+0", "12+1", "16_0"]
    help_line, first, second = asked(tmp_path)
    assert help_line == "--helpformat"
    assert "--duplicates" in first
    assert "--jobs 5,1,15,12,16 " in first
    assert "--jobs 12,20 " in second


def test_only_known_fields_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(table({"JobID": "1", "State": "COMPLETED"}, fields=("JobID", "State")))
    environment = fake_sacct(tmp_path, ANSWERS.replace(" ".join(FIELDS), "Account JOBID State"))
    (job,) = sacct_rows([1], environment=environment).jobs
    assert job.state == "COMPLETED"
    assert asked(tmp_path)[1].endswith("--format=JobID,Account,State")
    odd = sacct_rows([1], environment=fake_sacct(tmp_path, "echo nothing"))
    assert odd.unknown == "unknown: sacct does not list its fields (sacct --helpformat)"


def test_lists_that_an_argument_cannot_hold_are_cut(tmp_path: Path) -> None:
    environment = fake_sacct(tmp_path, ANSWERS)
    (tmp_path / "answer").write_text(table())
    numbers = range(10_000_000, 10_020_000)
    assert sacct_rows(numbers, environment=environment).unknown == ""
    lists = [line.split()[1].split(",") for line in asked(tmp_path)[1:]]
    assert [int(number) for part in lists for number in part] == list(numbers)
    assert max(len(",".join(part)) for part in lists) < 128 * 1024


def test_nothing_to_ask_is_not_asked(tmp_path: Path) -> None:
    assert sacct_rows([], environment=fake_sacct(tmp_path, "exit 1")).unknown == ""
    assert asked(tmp_path) == []

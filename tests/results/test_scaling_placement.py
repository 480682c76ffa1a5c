"""The placement of a run from its files: who shared cores or GPUs, on what it ran, and which curve it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cores import cpu_quota, physical_cores
from results.merge import build_record
from results.placement import placement_of
from results.record import problems
from results.scaling import placement_of_row
from tests.results.attempts import add_attempt, rank, run_folder

CONFIG: dict[str, Any] = {
    "ranks": 2, "precision": "fp32", "device": "auto", "model": {"width": 8}, "data": {"train": 96, "path": "/a"},
    "train": {"steps": 9, "global_batch": 8, "micro_batch": 4, "checkpoint_every": 0}, "engine": {"name": "zero1"},
    "launcher": {"cores_per_rank": 1},
}  # fmt: skip


def cpu(host: str = "a", cores: list[int] | None = None, **more: Any) -> dict[str, Any]:
    place = {"physical_cores": [0, 1] if cores is None else cores, "cpu_quota": None, "machine": "CPU A"}
    return {"host": host, "device": "cpu", **place, **more}


def gpu(index: int, uuid: str | None, host: str = "a") -> dict[str, Any]:
    return {"host": host, "device": f"cuda:{index}", "device_uuid": uuid, "machine": "GPU H", "physical_cores": [0]}


def of(places: list[dict[str, Any]], threads: int = 1, environment: Any = None, **changes: Any) -> dict[str, Any]:
    return placement_of({**CONFIG, **changes}, {"threads": threads}, environment or {}, places)


@pytest.mark.parametrize(
    ("ranks", "threads", "shared", "cores"),
    [
        ([cpu()] * 2, 1, False, 2),
        ([cpu()] * 3, 1, True, 2),
        ([cpu()] * 2, 2, True, 2),  # a rank's threads want cores as well
        ([cpu(cores=[0]), cpu(cores=[1])], 1, False, 2),  # each bound to a core of its own
        ([cpu(cores=[0]), cpu(cores=[0])], 1, True, 1),
        ([cpu("a"), cpu("a"), cpu("b"), cpu("b")], 1, False, 2),
        ([cpu("a"), cpu("a"), cpu("a"), cpu("b")], 1, True, 2),
        ([cpu(cpu_quota=1.5)] * 2, 1, True, 1),
        ([cpu(cpu_quota=0.5)], 1, False, 1),
        ([gpu(0, "u"), gpu(1, "v")], 8, False, 1),  # what the host's cores do does not time a GPU
        ([gpu(0, "u"), gpu(0, "v")], 1, False, 1),  # each sees its own as the first
        ([gpu(0, "u"), gpu(0, "u")], 1, True, 1),
        ([gpu(0, None), gpu(1, None)], 1, False, 1),
        ([gpu(0, None), gpu(0, None)], 1, None, 1),
    ],
)
def test_who_shares(ranks: list[dict[str, Any]], threads: int, shared: bool | None, cores: int) -> None:
    found = of(ranks, threads)
    assert found["oversubscribed"] is shared
    assert found["physical_cores"] == cores
    assert found["nodes"] == len({plain["host"] for plain in ranks})


def test_ranks_that_do_not_say_where_they_ran_are_where_the_first_was() -> None:
    environment = {"host": "a", "cpu": "CPU A", "physical_cores": [0, 1], "cpu_quota": None}
    silent = [{"host": "a", "device": "cpu"}] * 3
    assert of(silent[:2], environment=environment)["oversubscribed"] is False
    assert of(silent, environment=environment)["oversubscribed"] is True
    assert of(silent, environment=environment)["machine"] == "CPU A"
    assert of(silent)["oversubscribed"] is None
    assert of(silent)["machine"] == ""
    assert of([])["oversubscribed"] is None
    on_gpu = {**environment, "gpus": ["GPU H", "GPU H"]}
    assert of([{"host": "a", "device": "cuda:0"}], environment=on_gpu)["machine"] == "GPU H"


def test_unlike_nodes_are_another_machine() -> None:
    assert of([cpu("a"), cpu("b", machine="CPU B")])["machine"] == "CPU A + CPU B"


def test_names_of_curves() -> None:
    base = of([cpu()])

    def train(**keys: Any) -> dict[str, Any]:
        return of([cpu()], ranks=keys.pop("ranks", 2), train={**CONFIG["train"], **keys})

    assert {key: base[key] for key in ("strong", "weak")} == {key: train(micro_batch=2)[key] for key in ("strong", "weak")}
    more = train(ranks=4)
    assert more["strong"] == base["strong"]
    assert more["weak"] != base["weak"]
    grown = train(ranks=4, global_batch=16)
    assert grown["strong"] != base["strong"]
    assert grown["weak"] == base["weak"]
    for change in ({"precision": "bf16"}, {"model": {"width": 9}}, {"data": {"train": 95, "path": "/a"}},
                   {"launcher": {"cores_per_rank": 2}}):  # fmt: skip
        assert of([cpu()], **change)["strong"] != base["strong"]
    assert of([cpu()], data={"train": 96, "path": "/b"})["strong"] == base["strong"]
    assert of([cpu()], engine={"name": "zero1", "bucket_elements": 5})["engine_options"] != base["engine_options"]


def test_the_record_carries_it_and_an_older_record_is_made_up_for(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, train={"steps": 9, "global_batch": 8})
    attempt = add_attempt(folder, ends="completed", ranks=[rank() | cpu()], started="2026-01-05T10:00:00+00:00")
    attempt.write("env", {"host": "a", "cpu": "CPU A"})
    record = build_record(folder).as_dict()
    assert problems(record) == []
    assert record["placement"]["oversubscribed"] is False
    assert record["placement"]["started"] == "2026-01-05T10:00:00+00:00"
    found = placement_of_row({"run": folder.name}, tmp_path)  # no record.json: from the files
    assert found == record["placement"]
    assert placement_of_row({"run": "absent"}, tmp_path) == {}


def test_physical_cores_of_this_process(tmp_path: Path) -> None:
    import os

    import psutil

    allowed = sorted(os.sched_getaffinity(0))
    mine = physical_cores()
    assert 1 <= len(mine) <= min(len(allowed), psutil.cpu_count(logical=False) or len(allowed))
    for place, cpu_number in enumerate(allowed):  # as if all hardware threads belonged to pairs
        folder = tmp_path / f"cpu{cpu_number}" / "topology"
        folder.mkdir(parents=True)
        first = allowed[place - place % 2]
        (folder / "thread_siblings_list").write_text(f"{first}-{first + 1}\n" if place % 4 < 2 else f"{first},{first + 1}\n")
    assert physical_cores(tmp_path) == allowed[::2]
    assert len(physical_cores(tmp_path / "absent")) <= len(allowed)


def test_quota_of_control_groups(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "self"
    (root / "job" / "step").mkdir(parents=True)
    (root / "cpu" / "box").mkdir(parents=True)
    membership.write_text("4:memory:/x\n0::/job/step\n")
    assert cpu_quota(root, membership) is None
    (root / "job" / "cpu.max").write_text("350000 100000\n")
    (root / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(root, membership) == 3.5  # the group above binds as well
    membership.write_text("1:cpu:/box\n")
    (root / "cpu" / "box" / "cpu.cfs_quota_us").write_text("-1\n")
    (root / "cpu" / "box" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(root, membership) is None
    (root / "cpu" / "box" / "cpu.cfs_quota_us").write_text("50000\n")
    assert cpu_quota(root, membership) == 0.5
    assert cpu_quota(root, tmp_path / "absent") is None

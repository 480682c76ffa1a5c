"""Generated stores: built by several processes, resumed without doing parts again, built once by two who want them, verified."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.stores import ensure_all, ensure_store, manifest
from models.stores import MANIFEST, StoreSpec, open_manifest, verify
from results.errors import DataError, ResultError
from results.store import sha256_text, write_json

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Numbers(StoreSpec):
    """Files of numbers. In ``diary``, a file outside the store, every call is noted; a part named in ``raises`` or ``dies`` does
    so as long as the file ``<diary>.trouble`` exists."""

    name: ClassVar[str] = "numbers"  # type: ignore[misc]
    version: ClassVar[int] = 3  # type: ignore[misc]

    diary: Path
    recipe: Mapping[str, Any] = field(default_factory=lambda: {"count": 4, "scale": 2.0})
    parts: int = 4
    raises: int = -1
    dies: int = -1

    def note(self, text: str) -> None:
        with self.diary.open("a") as stream:  # O_APPEND: whole lines from any number of processes
            stream.write(f"{text}\n")

    def create(self, folder: Path) -> None:
        self.note("create")
        (folder / "values").mkdir()

    def build_part(self, folder: Path, part: int) -> None:
        if self.diary.with_suffix(".trouble").exists():
            if part == self.raises:
                raise RuntimeError("no such solution")
            if part == self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
        self.note(f"part {part} by {os.getpid()}")
        (folder / "values" / f"{part}.txt").write_text(f"{part * self.recipe['scale']}\n")

    def finish(self, folder: Path) -> None:
        self.note("finish")
        total = sum(float(path.read_text()) for path in (folder / "values").iterdir())
        (folder / "total.txt").write_text(f"{total}\n")


@pytest.fixture
def spec(tmp_path: Path) -> Numbers:
    return Numbers(diary=tmp_path / "diary")


@pytest.fixture
def built(spec: Numbers, tmp_path: Path) -> Path:
    """A complete store, made in this process by the same calls."""
    folder = spec.folder(tmp_path / "data")
    folder.mkdir(parents=True)
    spec.create(folder)
    for part in range(spec.parts):
        spec.build_part(folder, part)
    spec.finish(folder)
    write_json(folder / MANIFEST, manifest(spec, folder))
    return folder


def noted(spec: Numbers) -> Counter[str]:
    """How often each thing was done."""
    return Counter(line.split(" by ")[0] for line in spec.diary.read_text().splitlines())


ONCE = Counter({"create": 1, "finish": 1, **{f"part {part}": 1 for part in range(4)}})


def test_several_processes_build_every_part_once(spec: Numbers, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = ensure_store(spec, tmp_path / "data", workers=2, progress=lambda *facts: seen.append(facts))
    assert noted(spec) == ONCE
    builders = {line.split(" by ")[1] for line in spec.diary.read_text().splitlines() if " by " in line}
    assert str(os.getpid()) not in builders
    assert [done for _, done, _ in seen] == [0, 1, 2, 3, 4]
    assert {(name, parts) for name, _, parts in seen} == {(folder.name, 4)}
    assert folder.name == f"numbers-{spec.identity[:8]}"
    assert (folder / "total.txt").read_text() == "12.0\n"
    verify(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "total.txt", "values"]  # nothing left over
    ensure_all([spec, spec], tmp_path / "data", workers=2)
    assert noted(spec) == ONCE  # it was there


@pytest.mark.parametrize("trouble", ["raises", "dies"])
def test_a_build_that_was_cut_off_goes_on_with_the_missing_parts(trouble: str, tmp_path: Path) -> None:
    spec = Numbers(diary=tmp_path / "diary", **{trouble: 2})
    spec.diary.with_suffix(".trouble").touch()
    with pytest.raises(DataError, match="part 2 of the data store failed|was killed at part") as caught:
        ensure_store(spec, tmp_path / "data", workers=1)
    folder = spec.folder(tmp_path / "data")
    assert caught.value.where == str(folder)
    if trouble == "raises":
        assert "no such solution" in caught.value.what
    with pytest.raises(DataError, match="missing or incomplete"):
        verify(folder)
    done = noted(spec)
    assert done["part 0"] == done["part 1"] == 1
    assert done["part 2"] == done["finish"] == 0
    spec.diary.with_suffix(".trouble").unlink()
    ensure_store(spec, tmp_path / "data", workers=1)
    assert noted(spec) == ONCE
    verify(folder)


def test_a_builder_killed_while_laying_out_starts_anew(spec: Numbers, tmp_path: Path) -> None:
    folder = spec.folder(tmp_path / "data")
    (folder / ".parts").mkdir(parents=True)
    (folder / "values").mkdir()  # half of what `create` makes, and no mark that it was complete
    ensure_store(spec, tmp_path / "data", workers=2)
    assert noted(spec) == ONCE
    verify(folder)


def test_two_who_want_a_store_at_once_build_it_once(spec: Numbers, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.stores import ensure_store\n"
        "from tests.harness.test_stores import Numbers\nif __name__ == '__main__':\n"
        "    print('ready', flush=True)\n    sys.stdin.readline()\n"
        "    print(ensure_store(Numbers(diary=Path(sys.argv[1])), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(spec.diary), str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    builders = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    answers = {builder.communicate(timeout=120)[0].strip() for builder in builders}
    assert answers == {str(spec.folder(tmp_path / "data"))}
    assert noted(spec) == ONCE


def test_the_manifest_says_what_how_and_every_file(spec: Numbers, built: Path) -> None:
    found = open_manifest(built)
    assert set(found) == {"name", "version", "identity", "recipe", "built", "commit", "files"}
    assert (found["name"], found["version"], found["identity"]) == ("numbers", 3, spec.identity)
    assert found["recipe"] == {"count": 4, "scale": 2.0}
    assert found["files"] == {
        "total.txt": {"size": 5, "sha256": sha256_text("12.0\n")},
        **{f"values/{p}.txt": {"size": 4, "sha256": sha256_text(f"{2.0 * p}\n")} for p in range(4)},
    }
    verify(built)


@pytest.mark.parametrize("recipe", [{"count": 5, "scale": 2.0}, {"count": 4, "scale": 2.5}, {"count": 4}])
def test_another_recipe_is_another_store(recipe: dict[str, Any], spec: Numbers, tmp_path: Path) -> None:
    assert Numbers(diary=spec.diary, recipe=recipe).folder(tmp_path) != spec.folder(tmp_path)
    same = Numbers(diary=tmp_path / "elsewhere", recipe={"scale": 2, "count": 4.0}, parts=2)
    assert same.folder(tmp_path) == spec.folder(tmp_path)  # how it is built does not matter


@pytest.mark.parametrize(
    ("damage", "message", "quick"),
    [
        (lambda path: path.unlink(), "data file 'values/1.txt' is missing", True),
        (lambda path: path.write_text("2"), "has 1 bytes instead of 4: truncated or overwritten", True),
        (lambda path: path.write_text("9.9\n"), "data file 'values/1.txt' does not match its checksum", False),
    ],
    ids=["missing", "truncated", "changed"],
)
def test_verifying_names_the_damaged_file(damage: Any, message: str, quick: bool, built: Path) -> None:
    damage(built / "values" / "1.txt")
    with pytest.raises(DataError, match=message) as caught:
        verify(built)
    assert caught.value.where == str(built)
    assert f"rm -r {built}" in caught.value.next_step
    if quick:  # what every run does
        with pytest.raises(DataError, match=message):
            verify(built, checksums=False)
    else:
        verify(built, checksums=False)


def test_a_damaged_store_is_refused_and_not_silently_built_again(spec: Numbers, built: Path) -> None:
    before = noted(spec)
    (built / "total.txt").write_text("")
    with pytest.raises(DataError, match=r"total\.txt"):
        ensure_store(spec, built.parent)
    assert noted(spec) == before


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(spec: Numbers, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match="cannot make the data folder") as caught:
        ensure_store(spec, tmp_path / "file" / "data")
    assert caught.value.next_step == "paths.data=FOLDER"

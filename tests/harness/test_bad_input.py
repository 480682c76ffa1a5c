"""Wrong input: one clear message naming key and near matches, exit 2, and nothing is started or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import Workplace

DLWP = ("system=dlwp", "scale=tiny")
CASES = [
    (("tran.steps=3",), ("tran.steps", "train.steps")),
    (("train.stepz=3",), ("train.stepz", "train.steps")),
    (("train.steps=abc",), ("train.steps", "Integer")),
    (("train.steps=-3",), ("train.steps", "at least 1")),
    (("size=-5",), ("-5", "known")),
    (("variant=fno2x",), ("fno2x", "fno2d")),
    (("system=dlpw",), ("dlpw", "dlwp")),
    (("engine=zero9",), ("zero9", "zero3")),
    (("scale=smal",), ("smal", "small")),
    (("model.widht=3",), ("widht", "width")),
    (("model.width=-4",), ("width", "-4")),
    (("data.resolutionn=3",), ("resolutionn", "resolution")),
    (("data.viscosity=-1",), ("viscosity",)),
    (("data.teacher_forcing=1",), ("teacher_forcing",)),
    (("data.sequence=99",), ("sequence",)),
    (("ranks=2",), ("torch", "engine=zero0")),
    (("engine=zero1", "ranks=3"), ("train.global_batch", "multiple")),
    (("train.select=best",), ("train.validate_every",)),
    (("precision=fp8",), ("fp8",)),
    (("seed=0,1",), ("several values", "sweep")),
    (("=3",), ("override",)),
    (("engine=3",), ("engine", "string")),
    (("--from", "nowhere"), ("nowhere",)),
]


@pytest.mark.parametrize(("words", "expected"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_a_wrong_word_is_refused_before_anything_starts(
    words: tuple[str, ...],
    expected: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: the exit status and the message are what a shell would see."""
    from harness.cli import main

    monkeypatch.chdir(tmp_path)
    context = () if words[0] in ("--from", "scale=smal", "system=dlpw") else DLWP
    assert main(["run", *context, *words]) == 2
    message = capsys.readouterr().err
    for text in expected:
        assert text in message
    assert "where:" in message
    assert list(tmp_path.iterdir()) == []


def test_a_real_process_exits_with_2_and_no_traceback(workplace: Workplace) -> None:
    done = workplace.tenfold("run", "tran.steps=3", expect=2)
    assert "did you mean 'train.steps'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(workplace.path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nstagez: []\n", "did you mean 'stages'"),
        ("name: x\nstages: [{name: a, exclusive: perhaps, points: [[seed=0]]}]\n", "not a valid study"),
        ("name: x\nstages: []\n", "no points"),
        ("name: x\nstages: [{pints: [[seed=0]]}]\n", "did you mean 'points'"),
        ("name: x\nstages: [{points: [[variant=nothing]]}]\n", "no variant 'nothing'"),
    ],
)
def test_a_wrong_study_file_names_file_and_key(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "study").mkdir(parents=True)
    (tmp_path / "own" / "study" / "mine.yaml").write_text(text)
    assert main(["sweep", "study=mine", "--config-dir", "own"]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_wrong_key_in_a_users_recipe_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\ntrain: {stepz: 3}\n")
    assert main(["run", "experiment=mine", "--config-dir", "own"]) == 2
    message = capsys.readouterr().err
    assert "stepz" in message
    assert "mine" in message


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli import VERBS, main

    for name in VERBS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"tenfold {name}" in capsys.readouterr().out.split("examples:")[1]

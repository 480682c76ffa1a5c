"""The text of a frozen configuration: whatever a value is, it comes back as the same value of the same type."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.compose import Composer, override_frozen
from harness.experiment import Experiment, as_yaml, escaped
from launchers.slurm.script import Allocation, Batch, render
from results.errors import ConfigError

#: What some reader of YAML takes for something else than text, or OmegaConf for something to fill in.
AWKWARD = [
    "1e-3", "1E5", "+1e+5", "1.", ".5", "._1", "1_000", "1_2.3e5", "0x1F", "0o17", "017", "0b11", "1:30", "190:20:30.15", ".inf",
    "-.INF", ".nan", "nan", "null", "Null", "~", "", "yes", "No", "on", "OFF", "true", "False", "y", "2026-01-05", "12:30:00",
    "=", "<<", "- a", "a: b", ": ", "#", "a #b", "'", '"', "!!int 3", "&a", "*a", "%x", "@", "`", "|", ">", "{}", "[]", "?",
    " a ", "\t", "a\nb\n", "é", "日本", "\x85", "\u2028", "\U0001f600", "${a}", "\\${a}", "\\\\${a}", "${env:HOME}",
    "$HOME", "a\\", "${", "}",
]  # fmt: skip
TEXT = (
    st.text(max_size=12)
    | st.sampled_from(AWKWARD)
    | st.from_regex(r"[-+]?[0-9_.]{0,4}[eE]?[-+]?[0-9_]{0,3}", fullmatch=True)
    | st.builds("{}{}".format, st.sampled_from(AWKWARD), st.sampled_from(AWKWARD))
)
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
TREE = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=10)


def read(text: str) -> Any:
    """As a rank reads it: from a file, interpolations carried out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(text.encode())
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)


def alike(one: Any, other: Any) -> bool:
    """Equal, and of the same type all the way down; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(TEXT, TREE, max_size=4))
@example(dict.fromkeys(AWKWARD))
@example({"all": AWKWARD})
@example({"numbers": [0.1, 1e-3, 1e300, 5e-324, -0.0, 1.0, 10**30, float("inf"), float("-inf"), float("nan")]})
def test_whatever_it_holds_comes_back(plain: dict[str, Any]) -> None:
    assert alike(read(as_yaml(plain)), plain)


@given(TREE)
def test_what_is_escaped_is_itself_again(value: Any) -> None:
    node = OmegaConf.create({"value": escaped(value)})
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    assert alike(found["value"], value)


def test_keys_stay_in_the_schemas_order() -> None:
    with Composer() as composer:
        plain = composer.compose(["scale=tiny"]).plain
    assert list(read(as_yaml(plain))) == list(plain)
    assert read(as_yaml(plain)) == plain


# Text that is the shell's --------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with two sites: one that leaves ``${...}`` to the shell, one that does not."""
    (tmp_path / "site").mkdir()
    for name, line in (("shell", "export A=\\${HOME}/x"), ("filled", "export A=${HOME}/x")):
        (tmp_path / "site" / f"{name}.yaml").write_text(f"name: {name}\nsetup: ['{line}']\nenvironment: {{B: '1e-3'}}\n")
    return tmp_path


def test_the_shells_own_braces_reach_the_script(site: Path, tmp_path: Path) -> None:
    with Composer(site) as composer:
        experiment = composer.compose(["scale=tiny", "site=shell", f"paths.runs={tmp_path}/runs"])
        assert experiment.config.site.setup == ["export A=${HOME}/x"]
        frozen = Experiment.load(experiment.freeze().path)
        assert frozen.plain == experiment.plain
        changed = override_frozen(frozen, ["seed=4"])
        again = Experiment.resolve({**experiment.plain, "repeat": 1}, source="--force")
    for one in (frozen, changed, again):
        batch = Batch(folder=tmp_path, name="a", comment="b", allocation=Allocation(ranks=1))
        script = render(batch, one.config.site).splitlines()
        assert "export A=${HOME}/x" in script
        assert "export B=1e-3" in script


def test_braces_that_name_no_key_are_refused_with_the_way_to_write_them(site: Path) -> None:
    with Composer(site) as composer, pytest.raises(ConfigError, match=r"site\.setup\[0\].*'HOME' not found") as caught:
        composer.compose(["scale=tiny", "site=filled"])
    assert "site.setup[0]" in caught.value.where
    assert caught.value.next_step.startswith("\\${NAME} is left to the shell")

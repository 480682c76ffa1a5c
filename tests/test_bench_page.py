"""The page of measured numbers: what is measured again replaces its old self, and nothing else."""

from __future__ import annotations

from tests.bench.__main__ import HEAD, page, table

ORDER = ["Commands", "Slurm", "Planner"]


def test_sections_are_replaced_one_by_one_in_order() -> None:
    old = page("", {"Planner": "## Planner\n\nold\n", "Commands": "## Commands\n\nkept\n"}, ORDER)
    assert old == f"{HEAD}\n## Commands\n\nkept\n\n## Planner\n\nold\n"
    new = page(old, {"Planner": "## Planner\n\nnew\n", "Slurm": "## Slurm\n\nfirst\n"}, ORDER)
    assert new == f"{HEAD}\n## Commands\n\nkept\n\n## Slurm\n\nfirst\n\n## Planner\n\nnew\n"
    assert page(new, {}, ORDER) == new
    assert page(new, {}, ["Slurm"]) == f"{HEAD}\n## Slurm\n\nfirst\n"


def test_a_section_says_where_it_was_measured_and_what_was_not_met() -> None:
    rows = [
        {"name": "a", "unit": "ms", "ours": 1234.5, "peer": 1000.0, "ratio": 1.2345, "goal": 1.0, "met": False},
        {"name": "b", "unit": "s", "ours": 0.5, "goal": 1.0, "met": True},
        {"name": "c", "unit": "s", "ours": 0.5, "goal": 1.0, "met": None},
    ]
    lines = table("Title", "Note.", rows).splitlines()
    assert lines[0] == "## Title"
    assert lines[2].startswith("Note. Measured 20")
    assert lines[-4:-1] == [
        "| a | 1,234 | 1,000 | ms | 1.23 | 1 | no |",
        "| b | 0.5 |  | s |  | 1 | yes |",
        "| c | 0.5 |  | s |  | 1 | cannot tell |",
    ]

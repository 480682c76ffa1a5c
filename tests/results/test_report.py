"""The report: complete, escaped, free of requests, and alive in a real browser."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from results.analysis import analyse
from results.errors import ResultError
from results.report import figures, pictures, render, write_report
from results.report_text import data_note, duration, lede, moment
from results.rows import collect_rows, select
from tests.results.fixtures import VARIANTS, Synthetic

Rows = list[dict[str, Any]]
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Checks nesting, and gathers ids, links, addresses and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.scripts = 0
        self.text: list[str] = []
        self.headers: list[dict[str, str | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [found["id"]] if found.get("id") else []  # type: ignore[list-item]
        self.targets += [found[key] or "" for key in ("src", "href", "xlink:href", "action", "data") if key in found]
        self.scripts += tag == "script"
        self.headers += [found] if tag == "th" else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


@pytest.fixture(scope="module")
def html(study: Synthetic, rows: Rows, analysis: dict[str, Any]) -> str:
    return render(study.index, rows, analysis, study.runs)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_markup_is_well_formed_and_loads_nothing(page: Page, html: str) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.scripts == 1
    for target in page.targets:
        assert target.startswith(("#", "data:image/png;base64,")), target[:80]
        assert not target.startswith("#") or target[1:] in page.ids, f"{target} leads nowhere"
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html
    assert all(header.get("scope") in {"row", "col"} for header in page.headers)


def test_a_stranger_finds_what_was_run_and_how_it_went(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    for words in (
        "Scaling of backbones on Navier-Stokes", "42 runs of dlwp at scale small", "41 completed; 1 failed",
        "not a reproduction of the published numbers", "5 January 2026", "Example CPU 2.4 GHz, 2 cores, 23.4 GiB", "took 42 min",
        "✓ holds", "? cannot tell", "0.360", "0.310 to 0.410", "FNO2D stays below 0.6 x persistence", "oom-host",
        "tenfold retry --only oom-host", "tenfold sweep study=dlwp_scaling", "torch 2.13.0", "OMP_NUM_THREADS=1",
        "0123456789abcdef", "truth", "prediction", "error", *VARIANTS.values(),
    ):  # fmt: skip
        assert words in text, words


def test_every_run_is_a_row(html: str, rows: Rows) -> None:
    body = html.split('id="runs-table"')[1].split("</table>")[0]
    assert body.count("<tr data-status=") == len(rows)
    best = min(row["metrics"]["rmse"] for row in rows if row["status"] == "completed")
    assert f'data-value="{best!r}"' in body


def test_hostile_texts_stay_texts(study: Synthetic, rows: Rows, analysis: dict[str, Any]) -> None:
    bad = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    index = {**study.index, "title": bad, "description": bad, "variants": {**VARIANTS, "fno2d": bad}, "command": bad}
    changed = copy.deepcopy(analysis)
    for failure in changed["failures"]:
        failure.update(reason=bad, next_step=bad, run=bad)
    for claim in changed["claims"]:
        claim.update(statement=bad, detail=bad, source=bad, claim="x")
    changed["claims"] = changed["claims"][:1]
    changed["hardware"][0]["environment"]["cpu"] = bad
    html = render(index, [{**row, "engine": bad} for row in rows], changed, study.runs)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert Page(html).scripts == 1


def test_pictures_show_the_best_run_of_each_variant_best_first(study: Synthetic, rows: Rows) -> None:
    found = pictures(study.index, rows, study.runs)
    assert [picture["variant"] for picture in found] == ["fno2d", "tfno2d", "convlstm", "unet", "fourcastnet"]
    assert all("50k" in picture["heading"] for picture in found)


def test_figures_have_captions_and_distinct_names(study: Synthetic, rows: Rows, analysis: dict[str, Any]) -> None:
    found = figures(study.index, rows, analysis, study.runs)
    assert [figure.name for figure in found] == [
        "fit",
        "front-peak_gib-rmse",
        "front-step_s-rmse",
        "training",
        "engines",
        "planned",
    ]
    assert all(figure.caption.endswith(".") for figure in found)


def test_published_numbers_stand_apart(study: Synthetic, rows: Rows) -> None:
    row = {
        "system": "dlwp", "experiment": "exp 1", "variant": "unet", "published_as": "U-Net", "budget": "50k", "params": 5e4,
        "metric": "rmse", "value": 0.0269, "unit": "1", "note": "", "source": "arXiv 2407.14129",
    }  # fmt: skip
    found = analyse(study.index, rows, study.runs, published=[row, {**row, "budget": "1M", "params": 1e6, "value": 0.0145}])
    html = render(study.index, rows, found, study.runs)
    before, _, section = html.partition('<section id="published">')
    assert "0.0269" in section
    assert "arXiv 2407.14129" in section
    assert "0.0269" not in re.sub(r"<svg.*?</svg>", "", before, flags=re.DOTALL)


def test_a_study_that_has_not_run_yet_and_one_without_wishes(study: Synthetic, tmp_path: Path) -> None:
    rows = collect_rows(tmp_path, index=study.index)
    text = render(study.index, rows, analyse(study.index, rows, tmp_path), tmp_path)
    assert "42 pending" in text
    assert "No run failed." in text
    assert "No run recorded its environment." in text
    bare = {key: study.index[key] for key in ("study", "title", "description", "command", "system", "scale", "primary_metric")}
    index = {**bare, "metrics": {}, "variants": {}, "runs": study.index["runs"][:2]}
    rows = collect_rows(study.runs, index=index)
    Page(render(index, rows, analyse(index, rows, study.runs), study.runs))


def test_file_is_written_whole(study: Synthetic, rows: Rows, analysis: dict[str, Any], tmp_path: Path) -> None:
    path = write_report(study.index, rows, analysis, study.runs, tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text().rstrip().endswith("</html>")
    assert path.stat().st_size < 2e6
    with pytest.raises(ResultError, match="cannot write"):
        write_report(study.index, rows, analysis, study.runs, tmp_path / "absent" / "x.html")


def test_sentences(study: Synthetic, rows: Rows, analysis: dict[str, Any]) -> None:
    assert [duration(seconds) for seconds in (None, 48, 89.6, 720, 5400, 11_100)] == [
        "-",
        "48 s",
        "90 s",
        "12 min",
        "1 h 30 min",
        "3 h 05 min",
    ]
    assert moment("2026-01-05T10:00:00+00:00") == "5 January 2026, 10:00 UTC"
    assert moment(None) == ""
    assert data_note(["a1b2c3"], "paper") == ""
    assert "scale tiny" in data_note(["generated"], "tiny")
    assert "scale" not in data_note(["generated"], "paper")
    done = {**analysis, "counts": {**analysis["counts"], "runs": 1, "completed": 1, "failed": 0}, "hardware": []}
    assert "The study made 1 run of dlwp" in lede(study.index, select(rows, {"variant": "unet", "size": "5k", "seed": "0"}), done)
    assert "All completed." in lede(study.index, rows, done)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; to enable: apt-get install -y --no-install-recommends chromium")
def test_in_a_browser(html: str, rows: Rows, tmp_path: Path) -> None:
    """The script ran without an error, sorted by the primary metric, and offers sorting and filtering."""
    path = tmp_path / "report.html"
    path.write_text(html)
    quiet = [f"--disable-{what}" for what in ("gpu", "quic", "background-networking", "component-update", "sync")]
    flags = ["--headless", "--no-sandbox", "--no-first-run", *quiet, "--dump-dom"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", f"{path.as_uri()}?theme=dark"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(r"<html[^>]* data-script=\"ready\"", dom)
    assert re.search(r"<html[^>]* data-theme=\"dark\"", dom)
    assert re.search(r'<div id="script-error" role="alert"></div>', dom), "the error banner stays empty"
    table = dom.split('id="runs-table"')[1].split("</table>")[0]
    assert 'aria-sort="ascending"><button type="button">rmse</button>' in table
    assert f"{len(rows)} of {len(rows)} runs" in dom
    column = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", table).index('<button type="button">rmse</button>')
    lines = re.findall(r"<tr data-status=.*?</tr>", table, flags=re.DOTALL)
    values = [re.findall(r'data-value="([^"]*)"', line)[column] for line in lines]
    numbers = [float(value) for value in values if value]
    assert numbers == sorted(numbers)
    assert values[-1] == "", "the failed run comes last"

"""The page with the data inside, in a real browser."""

import json
import re

import pytest
from browser import browse, in_browser
from synthetic import row

from results.boards import report
from results.errors import StoreError
from results.queries.db import ask
from results.storage.store import open_store

HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>\'&$x_1$'


def _data(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


def _trials(page: str) -> list[dict]:
    return [page for name, page in _data(page).items() if name.startswith("trial/")]


def test_the_page_stands_alone(stored, tmp_path):
    file = report.write(stored, tmp_path / "out")
    text = file.read_text()
    shell = text.split("<body>")[0]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["index.html"]
    assert re.findall(r'(?:src|href)="([^"]*)"', shell) == ["data:,"]


def test_the_page_holds_the_leaderboard_as_data(stored):
    boards = _data(report.page(stored))["boards"]
    values = {
        row[board["columns"].index("mean")] for board in boards for row in board["rows"]
    }
    wanted = {
        float(f"{v:.7g}") for (v,) in ask(stored, "SELECT mean FROM leaderboard").rows
    }
    assert values == wanted


def test_the_page_holds_every_trial_up_to_a_limit(stored, monkeypatch):
    count = ask(stored, "SELECT count(*) FROM newest").rows[0][0]
    names = [name for name in _data(report.page(stored)) if name.startswith("trial/")]
    assert len(names) == count
    monkeypatch.setattr(report, "MOST_TRIALS", 2)
    names = [name for name in _data(report.page(stored)) if name.startswith("trial/")]
    assert len(names) == 2
    assert "trial/mlp-magnitude-0.6-0" in names  # a failed trial comes first


def test_a_hostile_name_is_only_text_in_the_page(empty):
    empty.append(row("t", method=HOSTILE, model=HOSTILE, task=HOSTILE))
    empty.append(row("f", status="failed", reason=HOSTILE, method=HOSTILE))
    text = report.page(empty)
    # The library of the charts has the text "<img" of its own; the data must not.
    data = text.split('id="data">')[1].split("</script>")[0]
    assert "<img" not in data
    assert HOSTILE in [trial["base"] for trial in _trials(text)]
    assert text.count("</script>") == 4  # import map, charts, data, program


def test_an_empty_store_has_nothing_to_report(empty):
    with pytest.raises(StoreError, match="no trial to report"):
        report.page(empty)


class TestInBrowser:
    pytestmark = in_browser

    def test_the_first_screen_says_who_wins(self, stored, tmp_path):
        out, console = browse(
            report.page(stored),
            """const box = document.querySelector(".answers").getBoundingClientRect();
            return { lines: all(".answers tbody tr"), bottom: box.bottom };""",
            tmp_path,
            at="#/board?model=mlp",
        )
        assert (out["errors"], out["asked"], console) == ([], [], "")
        ratios = [line.split(" %")[0] for line in out["lines"]]
        assert ratios == ["20", "40", "60"]
        assert all("svd" in line for line in out["lines"])
        assert out["bottom"] < 900

    def test_no_guess_is_the_best_of_its_ratio(self, empty, tmp_path):
        for method, ratio, value in [
            ("dense", 0.0, 0.9),
            ("guess", 0.2, 0.1),
            ("svd", 0.2, 0.5),
            ("guess", 0.4, 0.1),
        ]:
            one = row(f"{method}-{ratio}", method=method, ratio=ratio, chance=0.1)
            one["measurements"][0]["value"] = value
            empty.append(one)
        out, console = browse(
            report.page(empty),
            "return { lines: all('.answers tbody tr') };",
            tmp_path,
        )
        assert (out["errors"], console) == ([], "")
        assert out["lines"][0].startswith("20 %svd")
        assert "no rival" in out["lines"][0]
        assert out["lines"][1] == "40 %no method is better than guessing"

    def test_filters_and_sorting_live_in_the_address(self, stored, tmp_path):
        out, console = browse(
            report.page(stored),
            """const rows = () => all(".rows tbody tr th");
            const before = rows().length;
            const task = document.getElementById("filter-ratio");
            task.value = "0.4";
            task.dispatchEvent(new Event("change"));
            await pause();
            const filtered = { rows: rows(), address: location.hash };
            const sort = document.querySelector("[id^=sort-][id$=-params]");
            sort.click();
            await pause();
            const heads = [...document.querySelectorAll(".rows thead th")];
            const at = heads.findIndex((th) => th.hasAttribute("aria-sort"));
            const table = document.querySelector(".rows");
            const sizes = [...table.querySelectorAll("tbody tr")]
              .map((tr) => tr.children[at].textContent);
            const sorted = { sizes, address: location.hash,
              said: heads[at].getAttribute("aria-sort") };
            history.back();
            await pause();
            return { before, filtered, sorted, back: location.hash };""",
            tmp_path,
            at="#/board",
        )
        assert (out["errors"], console) == ([], "")
        assert out["before"] == 14
        assert len(out["filtered"]["rows"]) == 6  # dense, svd, magnitude on two boards
        assert out["filtered"]["address"] == "#/board?ratio=0.4"
        assert out["sorted"]["address"] == "#/board?ratio=0.4&sort=params"
        assert out["sorted"]["said"] == "ascending"  # the smallest is the best
        assert out["sorted"]["sizes"][0].startswith("600")
        assert out["back"] == "#/board?ratio=0.4"

    def test_no_match_offers_to_reset_the_filters(self, stored, tmp_path):
        out, _ = browse(
            report.page(stored),
            """const text = all(".empty")[0];
            document.querySelector(".empty a").click();
            await pause();
            return { text, rows: all(".rows tbody tr").length };""",
            tmp_path,
            at="#/board?method=nothing",
        )
        assert out["text"].startswith("No method is called “nothing”.")
        assert out["rows"] == 14

    def test_a_trial_is_one_click_away(self, stored, tmp_path):
        out, console = browse(
            report.page(stored),
            """document.querySelector(".rows tbody:nth-of-type(2) a").click();
            await pause();
            return { h1: all("h1")[0], command: all(".command")[0],
              focus: document.activeElement.id, numbers: all("table")[0] };""",
            tmp_path,
            at="#/board?model=mlp",
        )
        assert (out["errors"], console) == ([], "")
        assert out["h1"] == "svd on mlp"
        assert out["command"] == (
            "shrinkgrid run synthetic --only \"trial = 'mlp-svd-0.2-0'\" --store again"
        )
        assert out["focus"] == "content"
        assert "accuracy" in out["numbers"]

    def test_a_failed_trial_says_why(self, stored, tmp_path):
        out, _ = browse(
            report.page(stored),
            """document.querySelector("main table a").click();
            await pause();
            return { h1: all("h1")[0], reason: all(".reason") };""",
            tmp_path,
            at="#/overview",
        )
        assert out["h1"] == "magnitude on mlp"
        assert out["reason"] == ["ValueError: <b>no</b>"]

    def test_a_hostile_name_does_not_run(self, empty, tmp_path):
        empty.append(row("t", method=HOSTILE, model=HOSTILE))
        empty.append(row("f", status="failed", reason=HOSTILE))
        page = report.page(empty)
        for view in ("board", "overview", "trial/t", "trial/f"):
            out, console = browse(
                page,
                "return { hacked: window.hacked || 0, images: document.images.length,"
                " text: document.querySelector('main').textContent };",
                tmp_path,
                at=f"#/{view}",
            )
            assert (out["hacked"], out["images"], console) == (0, 0, "")
            assert "</script><img" in out["text"]  # shown as it is

    @pytest.mark.parametrize("view", ["tradeoff", "curves"])
    def test_charts_are_drawn_and_described(self, stored, tmp_path, view):
        out, console = browse(
            report.page(stored),
            """await drawn("figure svg[role=img]");
            await pause(3000);  // each chart is drawn by itself
            const found = [...document.querySelectorAll("figure svg[role=img]")];
            return { titles: all("figcaption"), drawn: found.length,
              marks: document.querySelectorAll("svg .mark-symbol path").length,
              said: found[0].getAttribute("aria-label") };
            """,
            tmp_path,
            at=f"#/{view}",
        )
        assert (out["errors"], out["asked"], console) == ([], [], "")
        # Behind the curves, a critical difference diagram for each ratio.
        charts, ranks = out["titles"][:2], out["titles"][2:]
        assert charts == ["mlp on digits", "smollm2-135m on pydoc-512"]
        assert all("critical difference" in title for title in ranks)
        assert bool(ranks) == (view == "curves")
        assert out["drawn"] == len(out["titles"])
        # With and without dense; a diagram has a mark for each of the two methods.
        curves = 12 + 2 * len(ranks)
        assert out["marks"] == (14 if view == "tradeoff" else curves)
        assert "magnitude" in out["said"]

    def test_a_paper_table_shows_published_and_measured_numbers(self, empty, tmp_path):
        empty.append(
            row(
                "t",
                model="LLaMA2-7B (as labelled in the README)",
                method="dense",
                task="wikitext2-2048",
                ratio=0.0,
                measured={"perplexity": 5.0},
            )
        )
        out, console = browse(
            report.page(empty),
            "return { heads: all('.paper thead th'), cells: all('.paper td.n') };",
            tmp_path,
            at="#/papers/adasvd_1",
        )
        assert (out["errors"], console) == ([], "")
        assert "WikiText-2 perplexity" in out["heads"]
        assert out["cells"][0] == "5.00≠ (5.68)"

    def test_coverage_tells_done_failed_and_missing_apart(self, stored, tmp_path):
        out, console = browse(
            report.page(stored),
            "return { rows: all('.coverage tbody tr') };",
            tmp_path,
            at="#/coverage",
        )
        assert (out["errors"], console) == ([], "")
        # No column of the dense ratio for the others; a third of the trials failed.
        assert out["rows"][1].startswith("magnitude✓ 3/3✓ 3/3✗ 2/3")
        assert out["rows"][2] == "svd✓ 3/3✓ 3/3✓ 3/3○ 0/1"

    @pytest.mark.parametrize("view", ["board", "overview", "trial/mlp-svd-0.4-1"])
    def test_a_phone_shows_everything_without_scrolling_sideways(
        self, stored, tmp_path, view
    ):
        out, _ = browse(
            report.page(stored),
            """const page = document.documentElement;
            const controls = [...document.querySelectorAll("select, input")];
            return { wide: page.scrollWidth > page.clientWidth,
              named: controls.every((c) => c.labels.length === 1) };""",
            tmp_path,
            at=f"#/{view}",
            size="500,844",  # the narrowest window that Chromium makes
        )
        assert (out["wide"], out["named"]) == (False, True)

    def test_twenty_thousand_rows_draw_a_bounded_page(self, tmp_path):
        store = open_store(tmp_path / "store", create=True)
        store.append_all(
            [
                row(
                    f"t{i}",
                    method=f"method_{i % 400}",
                    ratio=i // 400 / 50,
                    measured={"accuracy": (i * 7919 % 20011) / 20011},
                )
                for i in range(20_000)
            ]
        )
        out, console = browse(
            report.page(store),
            """document.querySelector("[id^=rows-]").click();
            await pause();
            return { rows: all(".rows tbody tr").length };""",
            tmp_path,
        )
        assert (out["errors"], console) == ([], "")
        assert out["rows"] == 300 + 1000  # MOST_ROWS of board.js, and one step more

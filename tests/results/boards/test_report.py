"""The report in a real browser, and the figures."""

import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
from synthetic import row

from results.boards import figures, report
from results.errors import StoreError
from results.queries.db import ask
from results.storage.store import Store, open_store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here"),
]
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>\'&$x_1$'


def _browse(
    page: str, script: str, folder, *, size="1200,900", real_time=False
) -> tuple[dict, str]:
    """What ``script`` returns inside the page, and what the console says.

    Time is the browser's virtual one, in which waiting costs nothing and computing
    takes no time; in real time a script cannot wait.
    """
    probe = f"""<script>
    addEventListener("error", (e) => (window.failed = e.message));
    const probe = async () => {{
      const pause = () => new Promise((done) => setTimeout(done, 60));
      let out;
      try {{ out = await (async () => {{ {"" if real_time else script} }})(); }}
      catch (why) {{ out = {{ failed: String(why) }}; }}
      const node = document.createElement("pre");
      node.id = "probe";
      node.textContent = JSON.stringify(out);
      document.body.append(node);
    }};
    const real = () => {{
      const node = document.createElement("pre");
      node.id = "probe";
      node.textContent = JSON.stringify((() => {{ {script if real_time else ""} }})());
      document.body.append(node);
    }};
    addEventListener("load", {"real" if real_time else "() => setTimeout(probe, 50)"});
    </script>"""
    file = folder / "probe.html"
    file.write_text(page.replace("</head>", f"{probe}</head>", 1), encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += [f"--window-size={size}", "--dump-dom"]
    words += [] if real_time else ["--virtual-time-budget=20000"]
    words += [f"--user-data-dir={folder / 'profile'}", f"file://{file}"]
    done = subprocess.run(
        [str(CHROMIUM), *words], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    console = [x for x in done.stderr.splitlines() if "CONSOLE" in x]
    return json.loads(html.unescape(found[1])), "\n".join(console)


def _board(store: Store) -> list[dict]:
    return ask(store, "FROM leaderboard WHERE model = 'mlp' AND main").dicts()


def test_the_page_stands_alone(stored, tmp_path):
    files = report.write(stored, tmp_path / "out")
    text = files[0].read_text()
    assert not re.findall(r'(?:src|href)="(?!#)', text.replace("xlink:", ""))
    assert "<link" not in text
    assert len(files) == 5  # the page, and two figures of either board
    for word in ("Overview", "Coverage", "Failures", "Provenance", "ValueError"):
        assert word in text
    for file in files[1:]:
        ET.parse(file)  # whole XML


def test_the_page_holds_the_leaderboard_as_data(stored):
    text = report.page(stored)
    found = re.search(r'id="data">(.*?)</script>', text, re.S)
    data = json.loads(found[1])
    names = [column["name"] for column in data["columns"]]
    values = {row[names.index("mean")] for row in data["rows"]}
    wanted = {
        float(f"{v:.7g}") for (v,) in ask(stored, "SELECT mean FROM leaderboard").rows
    }
    assert values == wanted


def test_a_hostile_name_is_only_text_in_the_page(empty):
    empty.append(row("t", method=HOSTILE, model=HOSTILE, task=HOSTILE))
    empty.append(
        row("f", status="failed", reason=HOSTILE, method=HOSTILE, host=HOSTILE)
    )
    empty.record_plan(
        [
            {
                "plan": "p",
                "trial": "t",
                "method": HOSTILE,
                "model": HOSTILE,
                "task": HOSTILE,
                "ratio": 0.2,
            }
        ]
    )
    text = report.page(empty, list(report._figures(empty)))
    assert "<img" not in text
    assert text.count("</script>") == 2  # the data's and the program's own


def test_an_empty_store_has_nothing_to_report(empty):
    with pytest.raises(StoreError, match="no trial to report"):
        report.page(empty)


@pytest.mark.parametrize("kind", figures.KINDS)
def test_a_figure_is_made_as_svg_pdf_and_png(stored, kind):
    rows = _board(stored)
    svg = figures.draw(kind, rows).decode()
    assert "magnitude" in svg
    ET.fromstring(svg)
    assert figures.draw(kind, rows, form="pdf").startswith(b"%PDF-")
    assert figures.draw(kind, rows, form="png").startswith(b"\x89PNG")
    assert figures.draw(kind, rows).decode() == svg  # same rows, same file


def test_a_figure_without_its_cost_is_refused(stored):
    with pytest.raises(StoreError, match="Did you mean 'params'"):
        figures.draw("pareto", _board(stored), cost="param")
    rows = [row | {"macs": None} for row in _board(stored)]
    with pytest.raises(StoreError, match="has a measured macs"):
        figures.draw("pareto", rows, cost="macs")


def test_the_front_of_a_figure_is_that_of_the_view(stored):
    rows = [row | {"stderr": None} for row in _board(stored)]
    shares = figures.probabilities(rows, "params")
    ours = {
        (r["method"], r["ratio"])
        for r, share in zip(rows, shares, strict=True)
        if share == 1
    }
    view = ask(
        stored,
        "SELECT method, ratio FROM pareto WHERE model = 'mlp' AND cost = 'params' "
        "AND metric = 'accuracy'",
    )
    assert ours == set(view.rows)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    """A page of 20,000 rows."""
    store = open_store(tmp_path_factory.mktemp("large") / "store", create=True)
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
    return report.page(store)


class TestInBrowser:
    pytestmark = in_browser

    def test_it_sorts_filters_and_asks_no_network(self, stored, tmp_path):
        page = report.page(stored, list(report._figures(stored)))
        out, console = _browse(
            page,
            """
            const cells = (n) => [...document.querySelectorAll("#board tbody tr")]
              .filter((tr) => tr.children.length > 1)
              .map((tr) => tr.children[n].textContent);
            const heads = [...document.querySelectorAll("#board th")];
            const value = heads.findIndex((th) => th.textContent === "value");
            const all = cells(value).length;
            document.querySelector("select[data-filter=metric]").value = "accuracy";
            document.querySelector("select[data-filter=metric]")
              .dispatchEvent(new Event("change"));
            const some = cells(value).length;
            heads[value].querySelector("button").click();
            const up = cells(value).map(Number);
            const said = heads[value].getAttribute("aria-sort");
            heads[value].querySelector("button").click();
            const down = cells(value).map(Number);
            const search = document.getElementById("search");
            search.value = "svd";
            search.dispatchEvent(new Event("input"));
            return { all, some, up, down, said, found: cells(3),
              count: document.getElementById("count").textContent,
              asked: performance.getEntriesByType("resource").length,
              failed: window.failed || "", figures:
              document.querySelectorAll("#figures svg").length };
            """,
            tmp_path,
        )
        assert out["all"] == 14
        assert out["some"] == 7
        assert out["up"] == sorted(out["up"])
        assert out["down"] == sorted(out["up"], reverse=True)
        assert out["said"] == "ascending"
        assert {text.removeprefix("★ ") for text in out["found"]} == {"svd"}
        assert out["count"] == "3 rows"
        assert (out["asked"], out["failed"], out["figures"]) == (0, "", 4)
        assert console == ""

    def test_a_hostile_name_does_not_run(self, empty, tmp_path):
        empty.append(row("t", method=HOSTILE, model=HOSTILE))
        empty.append(row("f", status="failed", reason=HOSTILE))
        out, console = _browse(
            report.page(empty, list(report._figures(empty))),
            "return { hacked: window.hacked || 0, images: document.images.length,"
            " text: document.querySelector('#board tbody').textContent };",
            tmp_path,
        )
        assert (out["hacked"], out["images"]) == (0, 0)
        assert "</script><img" in out["text"]  # shown as it stands
        assert console == ""

    def test_twenty_thousand_rows_are_ready_and_sorted_at_once(self, large, tmp_path):
        out, console = _browse(
            large,
            """
            const heads = [...document.querySelectorAll("#board th")];
            const value = heads.findIndex((th) => th.textContent === "value");
            const ready = performance.now();
            heads[value].querySelector("button").click();
            return { ready, sorted: performance.now() - ready };
            """,
            tmp_path,
            real_time=True,
        )
        assert 0 < out["ready"] < 3000  # milliseconds
        assert 0 < out["sorted"] < 300
        assert console == ""

    def test_of_twenty_thousand_rows_those_in_view_are_in_the_page(
        self, large, tmp_path
    ):
        out, _ = _browse(
            large,
            """
            const heads = [...document.querySelectorAll("#board th")];
            const value = heads.findIndex((th) => th.textContent === "value");
            heads[value].querySelector("button").click();
            const box = document.getElementById("board");
            box.scrollTop = box.scrollHeight;
            await pause();
            const lines = document.querySelectorAll("#board tbody tr");
            const last = lines[lines.length - 2].children[value].textContent;
            return { last, lines: lines.length };
            """,
            tmp_path,
        )
        assert out["lines"] < 200
        assert float(out["last"]) == pytest.approx(20010 / 20011, abs=1e-4)

    def test_it_is_readable_on_a_phone_and_by_keyboard(self, stored, tmp_path):
        out, _ = _browse(
            report.page(stored, list(report._figures(stored))),
            """
            const controls = [...document.querySelectorAll("button, select, input, a")];
            const page = document.documentElement;
            return { wide: page.scrollWidth > page.clientWidth,
              reachable: controls.every((c) => c.tabIndex >= 0),
              named: [...document.querySelectorAll("select, input")]
                .every((c) => c.labels.length === 1),
              board: document.getElementById("board").tabIndex };
            """,
            tmp_path,
            size="500,800",  # the narrowest window that Chromium makes
        )
        assert out == {"wide": False, "reachable": True, "named": True, "board": 0}

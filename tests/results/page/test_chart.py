"""Charts in a real browser: labels of points that lie close together."""

from browser import browse, in_browser
from synthetic import row

from results.boards import report

pytestmark = in_browser


def test_labels_of_close_points_do_not_cover_each_other(empty, tmp_path):
    names = [f"method_{i}" for i in range(6)]
    empty.append_all(
        [
            row(
                name,
                method=name,
                ratio=0.2,
                bytes=1000 + i,
                measured={"accuracy": 0.9 + i / 1e4},
                calibration='{"content":"sha256:0123456789abcdef","samples":8}',
            )
            for i, name in enumerate(names)
        ]
        + [row("dense", method="dense", ratio=0.0, bytes=4000)]
    )
    out, console = browse(
        report.page(empty),
        """const { apart } = await import("page/chart.js");
        const hand = (ys, xs = []) => {
          const places = ys.map((y, i) => ({ y, x: xs[i] ?? 0, length: 5 }));
          apart(places, 100);
          return places.map((place) => place.shift);
        };
        await drawn(".mark-text text");
        const labels = [...document.querySelectorAll(".mark-text text")]
          .filter((node) => node.textContent.startsWith("method_"))
          .map((node) => node.getBoundingClientRect()).sort((a, b) => a.top - b.top);
        const gaps = labels.slice(1).map((box, i) => box.top - labels[i].top);
        location.hash = "#/board";
        await pause();
        return { gaps, same: hand([50, 50, 50]), low: hand([100, 100]),
          beside: hand([50, 50], [0, 60]), rows: all(".rows th a"),
          about: all(".about") };""",
        tmp_path,
        at="#/tradeoff",
    )

    assert (out["errors"], out["asked"], console) == ([], [], "")
    # Lines of 13 pixels: one label above, one below, one where it was.
    assert out["same"] == [-13, 0, 13]
    assert out["low"] == [-13, 0]  # nothing moves below the chart
    assert out["beside"] == [0, 0]  # 5 letters end before 60 pixels
    assert len(out["gaps"]) == 5
    assert min(out["gaps"]) > 12.9
    # A calibration that all share is said once, not in each row.
    assert sorted(out["rows"])[1:] == names
    assert "text=012345 samples=8" in out["about"][0]

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
        await drawn("figure[data-drawn]");
        const labels = [...document.querySelectorAll(".labels_marks text")]
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


def test_many_methods_are_told_apart_and_dense_is_named_beside_the_chart(
    empty, tmp_path
):
    names = [f"method_{i:02d}" for i in range(20)]
    empty.append_all(
        [
            row(
                f"{name}-{ratio}",
                method=name,
                ratio=ratio,
                measured={"accuracy": 0.9 - i / 100},
            )
            for i, name in enumerate(names)
            for ratio in (0.2, 0.4)
        ]
        + [row("dense", method="dense", ratio=0.0)]
    )
    out, console = browse(
        report.page(empty),
        """const { looks, labels } = await import("page/methods.js");
        const { cut } = await import("page/chart.js");
        await drawn("figure[data-drawn]");
        const texts = [...document.querySelectorAll(".labels_marks text")];
        const boxes = texts.map((node) => node.getBoundingClientRect());
        const covered = boxes.filter((a, i) => boxes.some((b, j) => i !== j
          && a.left < b.right && b.left < a.right && a.top < b.bottom - 3
          && b.top < a.bottom - 3)).length;
        const dense = boxes[texts.findIndex((node) => node.textContent === "dense")];
        const lines = document.querySelector(".mark-line").getBoundingClientRect();
        const points = [...document.querySelectorAll(".mark-symbol path")];
        const look = (node) => ["stroke", "fill", "d"].map((key) =>
          node.getAttribute(key)).join();
        const groups = [["a", "b", "c"], ["d", "e", "f", "g", "h", "i"]];
        const hues = groups.map((group) => new Set(group.map((name) =>
          looks(groups).get(name).colour)).size);
        const long = ["svd a=1 b=2 c=3", "svd a=1 b=4 c=5", "asvd c=1"];
        return { named: texts.length, covered, beside: dense.left - lines.right,
          looks: new Set(points.map(look)).size, hues,
          short: [...labels(long).values()], cut: cut(`${"a".repeat(30)}=7`) };""",
        tmp_path,
        at="#/curves",
    )

    assert (out["errors"], console) == ([], "")
    assert (out["named"], out["covered"]) == (21, 0)
    assert out["looks"] == 20
    assert out["beside"] > 0  # right of all lines, not on them
    assert out["hues"] == [3, 6]  # no colour twice in one chart while there are others
    assert out["short"] == ["svd b=2", "svd b=4", "asvd"]
    assert out["cut"] == f"{'a' * 13}…{'a' * 12}=7"

"""The page's tests against those of results/tables/statistics.py, in a real browser."""

import math
import random

import pytest
from browser import browse, in_browser

from results.boards import report
from results.tables import statistics

pytestmark = in_browser


def test_the_page_computes_the_same_tests_as_the_tables(tmp_path):
    draw = random.Random(0)
    right = [[float(draw.random() < share) for _ in range(300)] for share in (0.8, 0.7)]
    losses = [[draw.gauss(mean, 1.0) for _ in range(80)] for mean in (0.0, 0.2)]
    few = [values[:12] for values in losses]
    # Far apart and near, even and odd degrees of freedom, few and many.
    windows = [
        [draw.gauss(gap, 1.0) for _ in range(count)]
        for count, gap in ((2, 1), (3, 40), (4, 0.1), (16, 3), (17, 0.01), (999, 0.1))
    ]
    long = [[draw.gauss(mean, 1.0) for _ in range(1200)] for mean in (0.0, 0.1)]
    points = [0.0, 0.3, 1.0, 1.9, 2.1, 4.0, 9.0]
    many = [4000, 3800]  # 2^7800 exceeds a float: terms are logarithms
    out, console = browse(
        report.html({"overview": {"totals": {}}, "boards": []}),
        f"""const s = await import("page/statistics.js");
        return {{ binary: s.paired(...{right}, "max"),
          real: s.paired(...{losses}, "min"), few: s.paired(...{few}, "min"),
          holm: s.holm([0.01, 0.04, 0.03]), none: s.mcnemar(0, 0),
          long: s.paired(...{long}, "min"), erfc: {points}.map(s.erfc),
          student: {windows}.map((one) => s.student(one)),
          means: s.paired(...{few}, "min", true),
          hand: s.mcnemar(8, 2), many: s.mcnemar(...{many}) }};""",
        tmp_path,
    )

    assert (out["errors"], console) == ([], "")
    # 8 samples only one is right on, 2 only the other: 2 (1 + 10 + 45) / 2^10.
    assert (out["hand"], out["none"]) == (pytest.approx(112 / 1024), 1)
    exact = statistics.mcnemar([1] * many[0] + [0] * many[1], [0] * 4000 + [1] * 3800)
    assert out["many"] == pytest.approx(exact)
    assert out["holm"] == pytest.approx(statistics.holm([0.01, 0.04, 0.03]))
    assert out["binary"]["p"] == pytest.approx(statistics.mcnemar(*right))
    better = sum(b > a for a, b in zip(*right, strict=True))
    assert (out["binary"]["wins"], out["binary"]["test"]) == (better, "McNemar")
    # Both draw 10,000 resamples: three standard errors of their difference.
    p = statistics.paired_bootstrap(*losses)
    assert out["real"]["p"] == pytest.approx(p, abs=3 * (2 * p * (1 - p) / 1e4) ** 0.5)
    assert out["few"]["test"] == "sign flips"
    assert out["few"]["p"] == pytest.approx(statistics.sign_flips(*few))
    assert out["student"] == pytest.approx(
        [statistics.student(one, [0.0] * len(one)) for one in windows], rel=1e-9
    )
    assert out["means"]["test"] == "Student"
    assert out["means"]["p"] == pytest.approx(statistics.student(*few))
    assert out["long"]["test"] == "normal"
    assert out["long"]["p"] == pytest.approx(statistics.normal_test(*long))
    assert out["erfc"] == pytest.approx([math.erfc(x) for x in points], rel=1e-12)
    lower = sum(b < a for a, b in zip(*losses, strict=True))
    assert (out["real"]["wins"], out["real"]["test"]) == (lower, "bootstrap")

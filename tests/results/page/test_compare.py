"""The page that compares, in a real browser: tests, settings and the address."""

import math

import pytest
from browser import browse, in_browser
from synthetic import row

from results.boards import report
from results.tables import statistics
from results.text.formats import number

pytestmark = in_browser
SEEDS = [
    "~".join(f"mlp-{method}-0.4-{seed}" for seed in range(3))
    for method in ("svd", "magnitude")
]


def test_two_trials_are_tested_sample_by_sample(empty, tmp_path):
    # 6 samples that only A has right, 1 that only B has right, 3 of both, 2 of none:
    # McNemar's exact p value is 2 (1 + 7) / 2^7 = 0.125.
    a = [1.0] * 6 + [0.0] + [1.0] * 3 + [0.0] * 2
    b = [0.0] * 6 + [1.0] + [1.0] * 3 + [0.0] * 2
    for name, right in (("a", a), ("b", b)):
        measured = [
            {"metric": "accuracy", "value": sum(right) / 12, "goal": "max", "n": 12}
        ]
        identity = f'{{"method":[{{"name":"svd","options":{{"mode":"{name}"}}}}]}}'
        trial = row(name, measurements=measured, identity=identity, seed=ord(name))
        empty.append(trial, [{"metric": "accuracy", "values": right}])
    out, console = browse(
        report.page(empty),
        """return { numbers: all("[aria-label='Numbers'] tbody tr"),
          square: all("[aria-label='A and B'] td"), lists: all(".samples"),
          settings: all("[aria-label='Settings that differ'] tbody tr") };""",
        tmp_path,
        at="#/compare?of=a,b",
    )

    assert (out["errors"], out["asked"], console) == ([], [], "")
    line = "accuracy of B0.3333\N{MINUS SIGN}0.417not distinguishable"
    assert out["numbers"][1] == f"{line}1 better, 6 worse of 120.13 (McNemar)"
    assert out["square"] == ["3", "6", "1", "2"]
    assert out["lists"] == ["6", "0, 1, 2, 3, 4, 5"]
    assert out["settings"] == ['method.0.options.mode"a""b"']


def test_a_perplexity_is_tested_by_the_losses_of_its_windows(empty, tmp_path):
    losses = {"a": [3.0, 3.2, 3.1, 3.4], "b": [3.5, 3.6, 3.7, 3.8]}
    for name, found in losses.items():
        mean = sum(found) / 4
        measured = [
            {"metric": m, "value": v, "stderr": 0.1, "goal": "min", "n": 4}
            for m, v in (("perplexity", math.exp(mean)), ("loss", mean))
        ]
        trial = row(name, measurements=measured, seed=ord(name))
        empty.append(trial, [{"metric": "loss", "values": found}])
    out, console = browse(
        report.page(empty),
        """return { numbers: all("[aria-label='Numbers'] tbody tr"),
          charts: all("h2") };""",
        tmp_path,
        at="#/compare?of=a,b",
    )

    assert (out["errors"], console) == ([], "")
    lines = [line for line in out["numbers"] if " of B" in line]
    p = statistics.student(*losses.values())
    of = f"worse than A0 better, 4 worse of 4{p:.2g} (Student"
    assert lines[0].startswith("perplexity of B")
    assert lines[0].endswith(f"{of}, of the loss)")
    assert lines[1].endswith(f"{of})")
    assert "Samples: loss" in out["charts"]


def test_methods_are_compared_over_the_means_of_their_seeds(stored, tmp_path):
    from results.queries.db import ask

    def means(seeds):
        listed = ", ".join(f"'0000-{trial}'" for trial in seeds.split("~"))
        query = f"SELECT values FROM samples WHERE attempt IN ({listed})"
        found = [values for (values,) in ask(stored, query).rows]
        return [sum(values) / 3 for values in zip(*found, strict=True)]

    out, console = browse(
        report.page(stored),
        """await pause(2000);
        return { numbers: all("[aria-label='Numbers'] tbody tr"),
          figure: document.querySelector("figure svg").getAttribute("aria-label") };""",
        tmp_path,
        at=f"#/compare?of={','.join(SEEDS)}",
    )

    assert (out["errors"], console) == ([], "")
    a, b = (means(seeds) for seeds in SEEDS)
    better = sum(y > x + 1e-9 for x, y in zip(a, b, strict=True))
    worse = sum(y < x - 1e-9 for x, y in zip(a, b, strict=True))
    line = out["numbers"][1]
    assert f"worse than A{better} better, {worse} worse of 100" in line
    assert float(number(statistics.paired_bootstrap(a, b))) < 0.01
    assert f"better in {better} and worse in {worse} of 100" in out["figure"]


def test_what_is_chosen_is_in_the_address(stored, tmp_path):
    out, console = browse(
        report.page(stored),
        """const empty = all(".empty");
        for (const name of ["pick-1", "pick-2"]) {
          document.getElementById(name).click();
          await pause();
        }
        const of = new URLSearchParams(location.hash.split("?")[1]).get("of");
        return { empty, of, rows: all("[aria-label='What is compared'] tbody tr") };""",
        tmp_path,
        at="#/compare",
    )

    assert (out["errors"], console) == ([], "")
    assert out["empty"] == [
        "Choose two or more rows of a leaderboard; the first one is what the others "
        "are compared with."
    ]
    assert out["of"] == ",".join(seeds.replace("0.4", "0.2") for seeds in SEEDS)
    assert [line[:4] for line in out["rows"]] == ["Asvd", "Bmag"]


@pytest.mark.parametrize("unknown", ["x", "mlp-svd-0.4-0~x"])
def test_an_unknown_trial_is_named(stored, tmp_path, unknown):
    out, _ = browse(
        report.page(stored),
        "return { warning: all('.warning') };",
        tmp_path,
        at=f"#/compare?of={unknown},mlp-svd-0.2-0",
    )

    assert out["warning"][0].endswith(f"Missing: {unknown.replace('~', ', ')}.")

"""Figures of one leaderboard, as SVG, PDF and PNG."""

import itertools
import re
import xml.etree.ElementTree as ET
from importlib.resources import files

import pytest
from synthetic import row

from results.boards import figures
from results.errors import StoreError
from results.queries.db import ask
from results.storage.store import Store


def _board(store: Store) -> list[dict]:
    return ask(store, "FROM leaderboard WHERE model = 'mlp' AND main").dicts()


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


def test_many_methods_are_told_apart_in_a_figure(empty):
    names = [f"method_{i:02d}" for i in range(20)]
    empty.append_all(
        [
            row(f"{name}-{ratio}", method=name, ratio=ratio)
            for name in names
            for ratio in (0.2, 0.4)
        ]
    )
    empty.append_all([row("dense", method="dense", ratio=0.0)])
    svg = figures.draw("curves", ask(empty, "FROM leaderboard").dicts()).decode()
    shown = r'y="([\d.]+)"[^>]*>(method_\d\d|dense)</text>'
    heights = {name: float(y) for y, name in re.findall(shown, svg)}
    assert heights.keys() == {*names, "dense"}
    # All points are at the same height; a line of 7 points needs about 9.
    placed = sorted(heights.values())
    assert min(b - a for a, b in itertools.pairwise(placed)) > 9
    looks = {
        (one.look["color"], str(one.look["linestyle"]), one.look["markerfacecolor"])
        for one in figures.series_of(ask(empty, "FROM leaderboard").dicts())
    }
    assert len(looks) == 21


def test_a_figure_has_the_colours_of_the_page():
    page = (files("results") / "page/methods.js").read_text()
    (light,) = re.findall(r"const LIGHT = \[(.*?)\]", page)
    assert tuple(re.findall(r"#\w{6}", light)) == figures.COLOURS


def test_a_value_far_worse_than_dense_is_at_the_edge_of_a_logarithmic_axis(empty):
    empty.append_all(
        [
            row("a", method="dense", ratio=0.0, params=9, measured={"perplexity": 8.0}),
            row("b", method="svd", params=7, measured={"perplexity": 1e9}),
            row("c", method="wanda", params=8, measured={"perplexity": 40.0}),
        ]
    )
    svg = figures.draw("pareto", ask(empty, "FROM leaderboard").dicts()).decode()
    written = re.findall(r">([^<>]+)</text>", svg)
    assert "svd, off scale" in written
    assert {"wanda", "dense", "10", "100"} <= set(written)
    assert not [text for text in written if "$" in text]

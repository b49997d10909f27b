"""Figures of one leaderboard, as SVG, PDF and PNG."""

import xml.etree.ElementTree as ET

import pytest

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

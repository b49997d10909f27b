"""Stored layers as a map, by hand."""

from synthetic import row

from results.boards import layer_map, trial_page
from results.queries.db import ask


def _layer(name, position, **columns):
    sizes = {"params_dense": 8, "params": 8.0, "nonzero": 8.0}
    bytes_ = {"bytes_dense": 32, "bytes": 32.0}
    return {"layer": name, "position": position} | sizes | bytes_ | columns


def test_a_layer_keeps_a_share_of_its_parameters_zeros_and_bits(empty):
    cut = {"rank": 2, "params": 4.0, "nonzero": 3.0, "bytes": 8.0}
    layers = [_layer("q", 0, role="query", block=0, **cut)]
    layers.append(_layer("gone", 1, role="up", params=0.0, nonzero=0.0, bytes=0.0))
    empty.append(row("a"), layers=layers)

    query = "SELECT layer, kept, sparsity, bits FROM layers ORDER BY position"
    assert ask(empty, query).rows == [("q", 0.5, 0.25, 8.0), ("gone", 0, None, 0)]


def test_experts_of_a_block_are_one_cell_and_layers_stand_in_their_order(empty):
    ranks = {"down": [None], "up": [3, 5]}
    layers = [
        _layer(f"b.{block}.{role}.{i}", block, role=role, block=block, rank=rank)
        for block in (1, 0)
        for role in ("down", "up")
        for i, rank in enumerate(ranks[role])
    ]
    layers[1] |= {"params": 4.0, "nonzero": 4.0}  # one expert of block 1 keeps half
    empty.append(row("a"), layers=layers)
    empty.append(row("b"))

    pages = trial_page.trials(empty, ["a", "b"])

    assert pages["b"]["layers"] is None
    found = pages["a"]["layers"]
    at = list(zip(found["block"], found["name"], strict=True))
    assert found["kept"][at.index((1, "up"))] == 0.75
    assert set(found["block"][:2]) == {0}
    assert found["layers"][found["name"].index("up")] == 2
    assert sorted(filter(None, found["rank"])) == [4, 4]
    assert found["sparsity"] is None  # no layer has a zero
    rows = {one["name"]: one for one in layer_map.summary(found)}
    assert rows["up"]["rank"] == (4, 4)
    assert rows["up"]["layers"] == 4
    assert rows["up"]["kept"] == (0.75, 1)
    assert rows["down"]["rank"] is None

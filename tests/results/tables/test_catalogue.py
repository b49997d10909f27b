"""How many cells of the packaged tables are planned and measured."""

from synthetic import row

from results.tables import catalogue, published


def test_a_cell_is_measured_where_the_store_has_a_number(empty):
    none = catalogue.catalogue(empty)
    assert [one["table"] for one in none] == published.names()
    assert sum(one["cells"] for one in none) > 2000
    assert sum(one["measured"] for one in none) == 0

    model = "LLaMA2-7B (as labelled in the README)"
    columns = {"method": "dense", "task": "wikitext2-2048", "ratio": 0.0}
    empty.append(row("t", model=model, measured={"perplexity": 5.0}, **columns))
    some = {one["table"]: one for one in catalogue.catalogue(empty)}

    assert some["adasvd_1"]["measured"] == 1
    assert some["adasvd_1"]["cells"] == 144
    assert sum(one["measured"] for one in some.values()) == 1

"""Tables: matching of trials, verdicts, marks, formats, verification."""

import json

import pytest
from synthetic import row

from results.errors import StoreError
from results.tables.cells import (
    DIFFERS,
    NOT_RUN,
    PROTOCOL,
    REPRODUCED,
    SUBSTITUTE,
    WITHIN,
)
from results.tables.paper import as_answer, paper_table
from results.tables.published import PaperTable
from results.tables.render import render


def _paper(*rows, columns=None, **more) -> PaperTable:
    wanted = {"task": "digits", "metric": "accuracy", "goal": "max", "scale": 100}
    return PaperTable(
        name="p",
        title="A table",
        columns=columns or [{"name": "accuracy", **wanted}],
        rows=[{"label": "it", "model": "mlp", "cells": [None], **r} for r in rows],
        **more,
    )


def _verdicts(store, *rows, **more):
    table = paper_table(store, _paper(*rows, **more))
    return [(cell.verdict, cell.reason) for r in table.rows for cell in r.cells]


SVD = {"method": "svd", "ratio": 0.2}


@pytest.mark.parametrize(
    ("value", "printed", "verdict"),
    [
        (0.9104, "91.0", REPRODUCED),  # rounds to what is printed
        (0.9106, "91.0", DIFFERS),
        (0.9106, "91", REPRODUCED),  # fewer digits printed, less to agree on
        (0.5, "91.0", DIFFERS),
    ],
)
def test_a_number_is_reproduced_to_the_printed_digit(empty, value, printed, verdict):
    empty.append(row("t", measured={"accuracy": value}))
    assert _verdicts(empty, SVD | {"cells": [printed]}) == [(verdict, "")]


def test_a_stated_tolerance_replaces_the_printed_digit(empty):
    empty.append(row("t", measured={"accuracy": 0.912}))
    stated = SVD | {"cells": ["91.0"], "within": 0.3}
    assert _verdicts(empty, stated) == [(REPRODUCED, "")]


def test_within_interval_means_the_interval_over_seeds_covers_it(empty):
    # 0.90, 0.92: mean 0.91, t(0.975, 1) = 12.7 errors of 0.01 on either side.
    for seed, value in enumerate((0.90, 0.92)):
        empty.append(row(f"t{seed}", seed=seed, measured={"accuracy": value}))
    assert _verdicts(empty, SVD | {"cells": ["95.0"]}) == [(WITHIN, "")]
    assert _verdicts(empty, SVD | {"cells": ["10.0"]}) == [(DIFFERS, "")]


def test_a_protocol_that_differs_is_named_by_its_field(empty):
    empty.append(row("t", protocol_fields='{"split":"test","tail":"dropped"}'))
    stated = SVD | {"cells": ["90"], "protocol": {"tail": "equal_weight"}}
    assert _verdicts(empty, stated) == [(PROTOCOL, "tail")]


def test_a_task_of_the_same_data_but_another_protocol_is_no_reproduction(empty):
    empty.append(
        row("t", task="wikitext2-2048", measured={"perplexity": 5.0}, model="mlp")
    )
    wanted = {"task": "wikitext2-1024", "metric": "perplexity", "goal": "min"}
    found = _verdicts(
        empty, SVD | {"cells": ["5.0"]}, columns=[{"name": "w", **wanted}]
    )
    assert found == [(PROTOCOL, "task wikitext2-2048")]


def test_a_limited_evaluation_is_no_reproduction(empty):
    empty.append(row("t", protocol_fields='{"limit":10}'))
    assert _verdicts(empty, SVD | {"cells": ["90"]}) == [(PROTOCOL, "limit")]


def test_not_run_says_why(empty):
    empty.append(
        row("t", status="failed", reason="ValueError: no", ratio=0.4, method="svd")
    )
    found = _verdicts(
        empty,
        {"method": "svd", "ratio": 0.4, "cells": ["9"]},
        {"method": "gptq", "ratio": 0.4, "cells": ["9"]},
    )
    assert found == [
        (NOT_RUN, "failed: ValueError: no"),
        (NOT_RUN, "no such trial in the store"),
    ]


def test_options_must_be_those_of_the_cell(empty):
    empty.append(row("t", method_options='{"group_size":2}', method="basis_sharing"))
    want = {"method": "basis_sharing", "ratio": 0.2, "cells": ["90.0"]}
    assert _verdicts(empty, want | {"options": {"group_size": 4}})[0][0] == NOT_RUN
    assert _verdicts(empty, want | {"options": {"group_size": 2}})[0][0] == REPRODUCED


def test_options_that_the_table_does_not_state_are_named_below_it(empty):
    empty.append(row("a", method="sb_gru", method_options='{"kl_weight":0.1}'))
    empty.append(row("b", method="svd"))
    rows = [{"method": name, "ratio": 0.2, "label": name} for name in ("sb_gru", "svd")]

    notes = paper_table(empty, _paper(*rows)).notes
    assert [note for note in notes if "=" in note] == ["With kl_weight=0.1: sb_gru"]


def test_the_dense_row_comes_first_and_its_disagreement_is_on_top(empty):
    empty.append(row("d", method="dense", ratio=0.0, measured={"accuracy": 0.5}))
    dense = {"method": "dense", "ratio": 0.0, "label": "dense", "cells": ["91.0"]}
    table = paper_table(empty, _paper(SVD | {"cells": ["80.0"]}, dense))
    assert table.rows[0].labels[0] == "dense"
    assert table.warnings == [
        "The dense row disagrees: accuracy measured 50.0, published 91.0 (not "
        "reproduced); the numbers below it cannot be compared"
    ]
    assert "dense row disagrees" in render(table, "rich").splitlines()[1]


def test_a_dense_row_disagrees_in_one_sentence_and_several_are_named(empty):
    measured = {"accuracy": 0.5, "loss": 2.0}
    empty.append(row("d", method="dense", ratio=0.0, measured=measured))
    columns = [
        {"name": "accuracy", "task": "digits", "metric": "accuracy", "scale": 100},
        {"name": "loss", "task": "digits", "metric": "loss", "goal": "min"},
    ]
    dense = {"method": "dense", "ratio": 0.0}
    table = paper_table(
        empty,
        _paper(
            dense | {"label": "theirs", "cells": ["91.0", "1.0"]},
            dense | {"label": "ours", "cells": ["50.0", "3.0"]},
            columns=columns,
        ),
    )
    assert [text.removesuffix("be compared") for text in table.warnings] == [
        "The dense row theirs disagrees: accuracy measured 50.0, published 91.0, loss "
        "measured 2.0, published 1.0 (not reproduced); the numbers below it cannot ",
        "The dense row ours disagrees: loss measured 2.0, published 3.0 (not "
        "reproduced); the numbers below it cannot ",
    ]


def test_a_substitute_is_headed_as_such_and_gets_no_verdict(empty):
    empty.append(row("t", model="small", measured={"accuracy": 0.8}))
    paper = _paper(SVD | {"cells": ["80.0"]})
    table = paper_table(empty, paper, substitutes={"mlp": "small"})
    assert table.rows[0].cells[0].verdict == SUBSTITUTE
    assert table.rows[0].cells[0].text == "80.0"
    assert table.warnings[0].startswith("Not the paper's models: small stands for mlp")
    with pytest.raises(StoreError, match=r"no model of p called 'mpl'.*Did you mean"):
        paper_table(empty, paper, substitutes={"mpl": "small"})


def test_a_mean_of_tasks_has_a_hole_where_one_task_has(empty):
    columns = [
        {"name": "a", "task": "digits", "metric": "accuracy", "goal": "max"},
        {"name": "b", "task": "mnist", "metric": "accuracy", "goal": "max"},
        {"name": "mean", "mean_of": ["a", "b"], "goal": "max"},
    ]
    paper = _paper(SVD | {"cells": ["0.9", "0.7", "0.8"]}, columns=columns)
    empty.append(row("t", measured={"accuracy": 0.9}))
    assert paper_table(empty, paper).rows[0].cells[2].measured is None
    empty.append(row("u", task="mnist", measured={"accuracy": 0.7}))
    mean = paper_table(empty, paper).rows[0].cells[2]
    assert mean.measured == pytest.approx(0.8)
    assert mean.verdict == REPRODUCED


def test_a_row_is_named_by_what_differs_between_rows(empty):
    def labels(*rows):
        return paper_table(empty, _paper(*rows)).labels

    one = SVD | {"printed_model": "LLaMA-7B"}
    assert labels(one, one) == ["method"]
    assert labels(one, SVD | {"printed_model": "OPT"}) == ["method", "model"]
    assert labels(SVD | {"printed_data": "a"}, SVD) == ["method", "data"]
    assert labels(SVD, SVD | {"printed_ratio": "20%"}) == ["method", "ratio"]


def test_a_cell_without_a_published_number_shows_four_significant_digits(empty):
    empty.append(row("t", measured={"accuracy": 0.912345}))
    for printed, text in ((None, "91.23"), ("n/a", "91.23"), ("90.1", "91.2")):
        table = paper_table(empty, _paper(SVD | {"cells": [printed]}))
        assert table.rows[0].cells[0].text == text


def test_verdicts_count_the_cells_with_a_published_number(empty):
    empty.append(row("t", measured={"accuracy": 0.9}))
    rows = [SVD | {"cells": [printed]} for printed in ("90", "90", "10", None)]
    gptq = {"method": "gptq", "ratio": 0.4}
    missing = [gptq | {"cells": [printed]} for printed in ("9", None)]

    found = paper_table(empty, _paper(*rows, *missing)).verdicts()

    assert {name: n for name, n in found.items() if n} == {
        REPRODUCED: 2,
        DIFFERS: 1,
        NOT_RUN: 1,
    }


def test_a_table_is_titled_by_its_paper_and_ends_with_its_note_and_sources(empty):
    bare = paper_table(empty, _paper(SVD))
    cited = _paper(
        SVD, paper="A 2024", table="Table 1", note="as printed", sources=["a file"]
    )

    assert (bare.title, bare.notes) == ("A table", [])
    table = paper_table(empty, cited)
    assert table.title == "A 2024 Table 1: A table"
    assert table.notes == ["as printed", "Source: a file"]


def test_a_cell_that_no_grid_plans_says_why(empty):
    empty.append(row("t", status="failed", reason="no", ratio=0.4))
    excused = {"unplanned": [{"method": ["svd"], "why": "no weights"}]}
    absent, tried = SVD | {"cells": ["9"]}, SVD | {"ratio": 0.4, "cells": ["9"]}

    assert _verdicts(empty, absent, tried, **excused) == [
        (NOT_RUN, "no weights"),
        (NOT_RUN, "failed: no"),
    ]
    other = {"unplanned": [{"method": ["gptq"], "why": "no weights"}]}
    assert _verdicts(empty, absent, **other) == [
        (NOT_RUN, "no such trial in the store")
    ]


def test_the_long_form_has_a_row_for_each_cell(empty):
    for method, value in (("svd", 0.9), ("magnitude", 0.8)):
        empty.append(row(method, method=method, measured={"accuracy": value}))
    rows = [{"method": m, "ratio": 0.2, "label": m} for m in ("svd", "magnitude", "x")]
    table = paper_table(empty, _paper(*rows))

    found = as_answer(table)

    assert len(found.types) == len(found.columns)
    first, second, third = found.dicts()
    assert (first["method"], first["column"], first["place"]) == ("svd", "accuracy", 1)
    assert (second["measured"], second["place"]) == (pytest.approx(80), 2)
    assert json.loads(first["key"])["trials"] == ["svd"]
    assert (third["measured"], third["place"], third["key"]) == (None, None, None)


def test_every_model_of_a_table_may_have_one_substitute(empty):
    empty.append(row("t", model="small", measured={"accuracy": 0.8}))
    table = paper_table(empty, _paper(SVD, SVD | {"model": "b"}), every_model="small")

    assert [r.cells[0].measured for r in table.rows] == [80, 80]
    assert "small stands for b, small stands for mlp;" in table.warnings[0]


def test_a_dense_row_that_agrees_gives_no_warning(empty):
    empty.append(row("d", method="dense", ratio=0.0, measured={"accuracy": 0.91}))
    dense = {"method": "dense", "ratio": 0.0, "cells": ["91.0"]}

    assert paper_table(empty, _paper(dense)).warnings == []
    limited = dense | {"protocol": {"split": "train"}}
    (warning,) = paper_table(empty, _paper(limited)).warnings
    assert "(protocol differs: split)" in warning

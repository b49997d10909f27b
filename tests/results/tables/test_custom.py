"""Custom tables: arrangement, refusals, ranks by paired tests."""

import pytest
from synthetic import row

from results.errors import StoreError
from results.tables.custom import custom_table


def _rivals(store, right_a, right_b):
    for method, right in (("a", right_a), ("b", right_b)):
        made = row(
            method, method=method, measured={"accuracy": sum(right) / len(right)}
        )
        store.append(made, [{"metric": "accuracy", "values": right}])
    table = custom_table(store, rows=["method"], cols=["task"], metric="accuracy")
    return {r.labels[0]: r.cells[0] for r in table.rows}


def test_best_and_second_are_placed_and_a_clear_gap_is_not_marked(empty):
    cells = _rivals(empty, [1.0] * 90 + [0.0] * 10, [1.0] * 60 + [0.0] * 40)
    assert (cells["a"].rank, cells["b"].rank) == (1, 2)
    assert not cells["b"].like_best  # McNemar: 30 against 0


def test_a_gap_that_chance_explains_is_marked(empty):
    cells = _rivals(empty, [1.0] * 90 + [0.0] * 10, [1.0] * 89 + [0.0] * 11)
    assert cells["b"].like_best  # McNemar: 1 against 0, p = 1


def test_equal_numbers_tie(empty):
    cells = _rivals(empty, [1.0, 0.0], [0.0, 1.0])
    assert (cells["a"].rank, cells["b"].rank) == (1, 1)


def test_a_custom_table_over_mixed_protocols_is_refused_with_the_fields(empty):
    empty.append(row("a", protocol="p1", protocol_fields='{"window":512,"x":1}'))
    empty.append(row("b", protocol="p2", protocol_fields='{"window":64,"x":1}'))
    axes = {"rows": ["method"], "cols": ["task"], "metric": "accuracy"}
    with pytest.raises(
        StoreError, match=r"2 protocols.*differ in window; .*--allow-mi"
    ):
        custom_table(empty, **axes)
    assert custom_table(empty, **axes, allow_mixed=True).rows[0].cells[0].seeds == 2


def test_a_cell_that_would_mix_ratios_is_refused(stored):
    with pytest.raises(
        StoreError, match=r"would be a mean over ratio 0\.2, 0\.4, 0\.6"
    ):
        custom_table(stored, rows=["method"], cols=["model"], metric="accuracy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ["methud"]}, "Did you mean 'method'"),
        ({"metric": "accurac"}, "Did you mean 'accuracy'"),
        ({"where": "ratio > 5"}, "no trial in .* fits 'ratio > 5'"),
        ({"where": "nope = 1"}, "nope"),
        ({"where": "true) UNION (SELECT 1"}, "UNION|columns|Error"),
        ({"where": "(SELECT count(*) FROM read_text('/etc/passwd')) > 0"}, "outside"),
    ],
)
def test_bad_words_of_a_custom_table_are_explained(stored, change, message):
    axes = {"rows": ["method"], "cols": ["task"], "metric": "accuracy"}
    with pytest.raises(StoreError, match=message):
        custom_table(stored, **(axes | change))


def test_two_settings_of_a_method_are_two_rows(empty):
    for bits in (4, 8):
        empty.append(
            row(
                f"q{bits}",
                method="round_to_nearest",
                method_options=f'{{"bits":{bits}}}',
                measured={"accuracy": bits / 10},
            )
        )
    recipes = ('{"train":{"epochs":3}}', '{"train":{"epochs":9}}')
    for trial, options in zip("ab", recipes, strict=True):
        empty.append(row(trial, method="exit", method_options=options))
    table = custom_table(empty, rows=["method"], cols=["task"], metric="accuracy")
    labels = [one.labels[0] for one in table.rows]
    assert labels[2:] == ["round_to_nearest bits=4", "round_to_nearest bits=8"]
    assert labels[:2] == ["exit train.epochs=3", "exit train.epochs=9"]
    assert [one.cells[0].text for one in table.rows[2:]] == ["0.4000", "0.8000"]


def test_a_cell_that_would_mix_calibrations_is_refused(empty):
    for samples in (16, 64):
        empty.append(row(f"c{samples}", calibration=f'{{"samples":{samples}}}'))
    axes = {"cols": ["task"], "metric": "accuracy"}
    with pytest.raises(StoreError, match="put calibration into --rows or --cols"):
        custom_table(empty, rows=["method"], **axes)
    table = custom_table(empty, rows=["calibration"], **axes)
    assert [one.labels for one in table.rows] == [["samples=16"], ["samples=64"]]


def test_seeds_that_read_the_same_samples_are_not_counted_twice(empty):
    # One sample of ten differs, and does so in each of 40 seeds: pooled, that were 40
    # against 0; over the samples it is 1 against 0.
    for seed in range(40):
        for method, first in (("a", 1.0), ("b", 0.0)):
            right = [first] + [1.0, 0.0, 1.0] * 3
            made = row(
                f"{method}{seed}",
                method=method,
                seed=seed,
                measured={"accuracy": sum(right) / 10},
            )
            empty.append(made, [{"metric": "accuracy", "values": right}])
    table = custom_table(empty, rows=["method"], cols=["task"], metric="accuracy")
    cells = {one.labels[0]: one.cells[0] for one in table.rows}
    assert cells["b"].like_best


def test_the_dense_row_is_first_and_numbers_are_sorted_by_size(empty):
    points = [("svd", 0.2), ("svd", 0.05), ("svd", 0.1), ("dense", 0.0)]
    for method, ratio in points:
        name = f"{method}-{ratio}"
        empty.append(row(name, method=method, ratio=ratio, calibration=None))
    empty.append(row("c", method="dense", ratio=0.0, task="z", calibration=None))
    empty.append(row("w", method="a", ratio=0.5, calibration='{"samples":16}'))
    axes = {"cols": ["task"], "metric": "accuracy"}

    table = custom_table(empty, rows=["ratio", "method"], **axes)
    assert [one.labels[::-1] for one in table.rows] == [
        ["dense", "0"],
        ["svd", "0.05"],
        ["svd", "0.1"],
        ["svd", "0.2"],
        ["a", "0.5"],
    ]
    table = custom_table(empty, rows=["method", "ratio"], **axes)
    assert [one.labels[0] for one in table.rows] == ["dense", "a", "svd", "svd", "svd"]
    # What has no calibration comes after what has one.
    rows = ["calibration", "ratio", "method"]
    table = custom_table(empty, rows=rows, **axes, where="method != 'dense'")
    assert [one.labels[0] != "samples=16" for one in table.rows] == [False] + 3 * [True]


def test_a_cell_over_protocols_and_seeds_in_rows_are_as_asked(empty):
    for seed in (10, 9):
        empty.append(row(f"s{seed}", seed=seed, protocol=f"p{seed}"))
    axes = {"rows": ["seed"], "cols": ["task"], "metric": "accuracy"}

    table = custom_table(empty, **axes, allow_mixed=True)
    assert [one.labels for one in table.rows] == [["9"], ["10"]]  # by size
    with pytest.raises(StoreError, match="say --allow-mixed"):
        custom_table(empty, **axes)

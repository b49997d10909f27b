"""The check of a written table: its numbers are computed again from the store."""

import html
import json

import pytest
from synthetic import row

from results.errors import StoreError
from results.tables.custom import custom_table
from results.tables.render import render
from results.tables.verify import MEANS, _compute, verify


@pytest.mark.parametrize("form", ["md", "latex", "html"])
def test_verify_finds_every_number_and_no_drift(stored, tmp_path, form):
    axes = {"rows": ["method", "ratio"], "cols": ["model"], "metric": "accuracy"}
    table = custom_table(stored, **axes)
    file = tmp_path / "t"
    file.write_text("Some text before 12.5 and\n" + render(table, form) + "\nafter 3")
    assert verify(stored, file) == (7, [])


@pytest.mark.parametrize("form", ["md", "latex", "html"])
def test_verify_names_the_number_that_drifted(empty, tmp_path, form):
    empty.append(row("a", method="a", measured={"accuracy": 0.9}))
    empty.append(row("b", method="b", measured={"accuracy": 0.8}))
    axes = {"rows": ["method"], "cols": ["task"], "metric": "accuracy"}
    file = tmp_path / "t"
    file.write_text(render(custom_table(empty, **axes), form))
    empty.append(row("a", method="a", minute=1, measured={"accuracy": 0.7}))

    checked, drifted = verify(empty, file)

    assert checked == 2
    assert [(d.written.printed, d.computed) for d in drifted] == [("0.9000", "0.7000")]


def test_verify_reads_a_forged_number(stored, tmp_path):
    axes = {"rows": ["method", "ratio"], "cols": ["model"], "metric": "accuracy"}
    text = render(custom_table(stored, **axes), "md")
    forged = text.replace("0.9433[", "0.9999[")
    assert forged != text
    (tmp_path / "t.md").write_text(forged)
    drifted = verify(stored, tmp_path / "t.md")[1]
    assert [(d.written.printed, d.computed) for d in drifted] == [("0.9999", "0.9433")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no numbers", "no number with a key"),
        ("0.5 % shrinkgrid {broken}", "is not JSON"),
        ('0.5 % shrinkgrid {"metric":"a"}', "names no trials"),
        (
            '0.5 % shrinkgrid {"column":"1; DROP","trials":["a"]}',
            "which trials lack",
        ),
    ],
)
def test_a_file_without_good_keys_is_explained(stored, tmp_path, text, message):
    (tmp_path / "t.tex").write_text(text)
    with pytest.raises(StoreError, match=message):
        verify(stored, tmp_path / "t.tex")


def written(tmp_path, printed: str, key):
    file = tmp_path / "t.tex"
    file.write_text(f"{printed} % shrinkgrid {json.dumps(key)}")
    return file


@pytest.mark.parametrize(
    ("key", "printed"),
    [
        ({"metric": "accuracy", "trials": ["a", "b"]}, "0.800"),
        ({"metric": "accuracy", "trials": ["a"], "scale": 100}, "90.0"),
        ({"metric": "accuracy", "trials": ["a"], "scale": -1, "offset": 1}, "0.10"),
        ({"metric": "accuracy", "trials": ["b"], "offset": 1000}, "1,000.7"),
        ({"column": "params", "trials": ["b"], "scale": 0.001}, "2"),
        (
            {
                "mean": [
                    {"metric": "accuracy", "trials": ["a"]},
                    {"mean": [{"metric": "accuracy", "trials": ["a", "b"]}]},
                ]
            },
            "0.850",
        ),
    ],
)
def test_a_number_is_computed_from_its_key(empty, tmp_path, key, printed):
    # Accuracies 0.9 and 0.7, their mean 0.8, and the mean of 0.9 and 0.8.
    empty.append(row("a", measured={"accuracy": 0.9}, params=1000))
    empty.append(row("b", measured={"accuracy": 0.7}, params=2000, seed=1))

    assert verify(empty, written(tmp_path, printed, key)) == (1, [])


@pytest.mark.parametrize(
    "key",
    [
        {"metric": "accuracy", "trials": ["a", "gone"]},
        {"column": "params", "trials": ["a"]},  # not stored
        {
            "mean": [
                {"metric": "accuracy", "trials": ["a"]},
                {"metric": "loss", "trials": ["a"]},
            ]
        },
    ],
)
def test_a_number_with_a_trial_that_is_gone_cannot_be_computed(empty, tmp_path, key):
    empty.append(row("a", measured={"accuracy": 0.9}))

    (drift,) = verify(empty, written(tmp_path, "0.9", key))[1]

    assert (drift.written.printed, drift.computed) == ("0.9", None)
    assert drift.written.line == 1


@pytest.mark.parametrize(
    "key",
    [
        ["a"],
        {"metric": 1, "trials": ["a"]},
        {"metric": "accuracy", "trials": "a"},
        {"column": None, "trials": ["a"]},
        {"metric": "accuracy", "trials": ["a"], "scale": "2"},
        {"metric": "accuracy", "trials": ["a"], "offset": True},
        {"mean": []},
        {"mean": {"metric": "accuracy", "trials": ["a"]}},
        {"mean": [{"metric": "accuracy", "trials": ["a"]}, {"trials": "a"}]},
    ],
)
def test_a_key_of_another_shape_is_refused_with_its_line(empty, tmp_path, key):
    file = tmp_path / "t.html"
    text = html.escape(json.dumps(key), quote=True)
    file.write_text(f'<p>\n\n<span data-shrinkgrid="{text}"><b>0.5</b></span>')
    with pytest.raises(StoreError, match=r"line 3: .* is not a key of"):
        verify(empty, file)


def test_means_of_means_have_a_bounded_depth(empty, tmp_path):
    key = {"metric": "accuracy", "trials": ["a"]}
    empty.append(row("a", measured={"accuracy": 0.9}))
    for _ in range(MEANS):
        key = {"mean": [key]}
    assert verify(empty, written(tmp_path, "0.9", key)) == (1, [])
    with pytest.raises(StoreError, match="is not a key of"):
        verify(empty, written(tmp_path, "0.9", {"mean": [key]}))


def test_a_footnote_without_a_key_is_no_number_of_a_table(empty, tmp_path):
    empty.append(row("a", measured={"accuracy": 0.9}))
    file = tmp_path / "t.md"
    file.write_text(
        "Text 0.3[^2] and\n**0.9000**[^1]\n\n"
        '[^1]: `shrinkgrid {"metric": "accuracy", "trials": ["a"]}`\n[^2]: a remark'
    )
    assert verify(empty, file) == (1, [])


def test_a_mean_over_seeds_weighs_them_equally():
    values = {("a", "x"): 1.0, ("b", "x"): 2.0, ("c", "x"): 6.0}
    key = {"metric": "x", "trials": ["a", "b", "c"], "scale": 2, "offset": 1}
    assert _compute(values, key) == 7
    assert _compute(values, {"mean": [key, key | {"trials": ["a"]}]}) == 5


@pytest.mark.parametrize("before", ["", "\n", "\n\n", "text\n"])
def test_a_damaged_key_is_found_in_its_line(empty, tmp_path, before):
    (tmp_path / "t.tex").write_text(before + "0.5 % shrinkgrid {broken}")
    line = before.count("\n") + 1

    with pytest.raises(StoreError, match=rf"^line {line}: the key"):
        verify(empty, tmp_path / "t.tex")

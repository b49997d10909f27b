"""Wrong keys and values of a grid file, and the forms that the messages offer."""

import math

import pytest

from harness.core import BenchError
from harness.planning import grid
from harness.planning.values import (
    bad_ratio,
    bad_seed,
    not_a_list,
    too_many,
    with_changes,
)

GRID = {"models": "[mlp]", "methods": "[dense]", "ratios": "[0.5]", "tasks": "[digits]"}


def errors(tmp_path, **changed: str | None) -> list[str]:
    lines = GRID | changed
    path = tmp_path / "g.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in lines.items() if v is not None))
    try:
        grid.read(path)
    except BenchError as why:
        return why.errors
    return []


@pytest.mark.parametrize(
    ("value", "offered"),
    [
        ("40%", "0.4 for '40%'"),
        (30, "0.3 for 30 %"),
        ("a lot", "0.2 for '20%'"),
        (1.5, "0.015 for 1.5 %"),
        ("1%", "0.01 for '1%'"),
        (1, "a number below 1"),  # 1 % or everything
        (99.5, "0.995 for 99.5 %"),
        (100, "0.2 for '20%'"),
        (-0.5, "0.2 for '20%'"),
    ],
)
def test_a_wrong_ratio_gets_its_own_example(value, offered):
    assert f"(write {offered})" in str(bad_ratio(value))


def test_a_ratio_is_from_0_to_below_1():
    assert [bad_ratio(ratio) for ratio in (0, 0.0, 0.5, 0.999)] == [None] * 4
    assert [ratio for ratio in (1, True, False, math.nan) if not bad_ratio(ratio)] == []


def test_a_product_of_exactly_the_limit_is_accepted():
    assert too_many(5, 5) == []
    assert too_many(6, 5)[0].startswith("the product has 6 trials, and 5 are allowed")


def test_a_change_replaces_what_blocks_say():
    file = {"seeds": [0], "blocks": [{"seeds": [1], "dtype": "a"}, "wrong"]}

    assert with_changes(file, {"seeds": [5]}) == {
        "seeds": [5],
        "blocks": [{"dtype": "a"}, "wrong"],
    }
    blocks = {"blocks": [{"seeds": [7]}]}
    assert with_changes(file, blocks) == {"seeds": [0]} | blocks


def test_a_scalar_gets_the_list_to_write(tmp_path):
    assert not_a_list("models", "mlp") == (
        "models 'mlp' is not a list; write models: [mlp]"
    )
    assert not_a_list("tasks", {"name": "digits"}).endswith("tasks: [{name: digits}]")
    assert "tasks is an empty list" in not_a_list("tasks", [])
    assert errors(tmp_path, ratios="0.5") == [
        "ratios 0.5 is not a list; write ratios: [0.5]"
    ]


def test_a_singular_key_is_one_error(tmp_path):
    assert errors(tmp_path, models=None, model="[mlp]") == [
        "no key called 'model'. Did you mean 'models'?"
    ]


def test_options_under_a_name_get_the_form_to_write(tmp_path):
    (said,) = errors(tmp_path, methods="[dense, {magnitude: {scope: layer}}]")
    assert said.endswith("write {name: magnitude, scope: layer}")


def test_every_error_of_resources_is_reported_at_once(tmp_path):
    said = errors(tmp_path, resources="{cpu: 1, time: 30 minutes, memory: 4 gigs}")
    assert ["'cpu'" in one for one in said] == [True, False, False]
    assert ["'4 gigs' is not a size" in one for one in said] == [False, True, False]
    assert ["'30 minutes' is not" in one for one in said] == [False, False, True]


def test_a_missing_model_folder_is_an_error_of_the_grid(tmp_path):
    (said,) = errors(tmp_path, models="[./my-llama]", tasks="[pydoc-512]")
    assert said.startswith("no model folder ./my-llama;")


def test_an_unknown_model_is_told_how_to_name_one_of_the_hub(tmp_path):
    (said,) = errors(tmp_path, models="[llama-7b]")
    assert "OWNER/NAME" in said


def test_images_too_small_for_a_network_are_known_when_planning(tmp_path):
    assert errors(tmp_path, models="[lenet5, mlp]") == []
    points = list(grid.read(tmp_path / "g.yaml").points())
    assert [point.trial.model.name for point in points if point.unsupported] == [
        "lenet5"
    ]
    assert "8 x 8 are too small" in str(points[0].unsupported)


def test_speed_is_refused_for_images_too_small_as_well(tmp_path):
    speed = "[{name: latency, trained_on: digits}]"
    assert errors(tmp_path, models="[lenet5]", tasks=speed) == []
    (point,) = grid.read(tmp_path / "g.yaml").points()
    assert "8 x 8 are too small" in str(point.unsupported)


def test_short_names_of_dtypes_and_keys_for_anchors_are_taken(tmp_path):
    assert errors(tmp_path, dtype="bf16", **{"x-note": "{a: 1}"}) == []
    (point,) = grid.read(tmp_path / "g.yaml").points()
    assert point.trial.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n\tb: 2\n", "line 2, column 1: a tab in 'b: 2'; indent with spaces"),
        ("a: b: c\n", "in 'a: b: c'; put a value that has a colon in quotation"),
    ],
)
def test_yaml_errors_show_the_line_and_the_fix(tmp_path, text, said):
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(BenchError) as why:
        grid.read(path)
    assert said in str(why.value)
    assert "unicode string" not in str(why.value)


def test_a_seed_is_a_whole_number_that_a_generator_takes():
    assert [bad_seed(seed) for seed in (0, 1, 2**63 - 1)] == [None] * 3
    for seed in (-1, 2**63, True, 1.0, "0", None):
        assert bad_seed(seed) == f"seed {seed!r} is not a whole number from 0 up"

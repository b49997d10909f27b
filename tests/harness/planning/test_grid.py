"""Grid files: what is read, what is refused, what becomes a trial."""

from pathlib import Path

import pytest

from harness.core import BenchError
from harness.planning import grid as grids

GOOD = """
models: [toy]
methods: [dense, toy_drop]
ratios: [0.25, 0.5]
tasks: [toy_sum]
"""

# Six levels of ten aliases each: a million values in 300 bytes.
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.fixture
def write(tmp_path: Path, toys: Path):
    """Write a grid file and return its path."""

    def writes(text: str) -> Path:
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return path

    return writes


def errors(path: Path) -> list[str]:
    with pytest.raises(BenchError) as caught:
        grids.read(path)
    return caught.value.errors


def test_the_product_is_expanded_with_the_dense_baseline_once(write):
    points = list(grids.read(write(GOOD)).points())

    said = [(p.trial.method.name, p.trial.ratio) for p in points]
    assert said == [("dense", 0.0), ("toy_drop", 0.25), ("toy_drop", 0.5)]


def test_seeds_are_not_repeated_where_nothing_is_random(write):
    points = list(grids.read(write(GOOD + "seeds: [0, 1, 2]\n")).points())

    assert {p.trial.seed for p in points} == {0}


def test_seeds_are_repeated_for_a_random_method(write):
    text = GOOD.replace("toy_drop", "toy_noop") + "seeds: [3, 4]\n"
    points = list(grids.read(write(text)).points())

    assert [p.trial.seed for p in points if p.trial.method.name == "toy_noop"] == [
        3,
        3,
        4,
        4,
    ]


def test_every_error_is_named_at_once(write):
    path = write(
        """
modles: [toy]
methods: [denes, {name: magnitude, scop: layer}]
ratios: [20, "a", 0.3]
tasks: []
seeds: [-1]
dtype: float31
resources: {cpus: 0, time: soon}
"""
    )

    found = errors(path)

    assert len(found) >= 9
    said = "\n".join(found)
    assert "no key called 'modles'. Did you mean 'models'?" in said
    assert "missing key 'models'" in said
    assert "Did you mean 'dense'?" in said
    assert "Did you mean 'scope'?" in said
    assert "ratio 20 is not in [0, 1)" in said
    assert "(write 0.2 for '20%')" in said
    assert "tasks is an empty list" in said
    assert "seed -1" in said
    assert "Did you mean 'float32'?" in said
    assert "'soon' is not a duration" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("models: [toy]\nmodels: [toy]\n", "'models' stands twice"),
        ("- just\n- a list\n", "not a mapping"),
        ("models: [toy\n", "not YAML"),
        ("models: !!python/object/apply:os.system ['true']\n", "not YAML"),
        ("a: &a [*a]\n", "levels"),
        ("blocks: []\n", "'blocks' is an empty list"),
        ("blocks: {models: [toy]}\n", "'blocks' is"),
        (BOMB, "more than 100000 values"),
        ("x" * 1_000_001, "bytes"),
    ],
)
def test_a_file_that_is_no_honest_grid_is_refused(write, text, reason):
    assert reason in "\n".join(errors(write(text)))


def test_a_pair_that_makes_no_sense_is_unsupported_with_its_reason(write):
    text = GOOD.replace("toy_sum", "toy_sum, pydoc-512")
    points = list(grids.read(write(text)).points())

    reasons = {p.trial.task.name: p.unsupported for p in points}
    assert reasons["toy_sum"] is None
    assert reasons["pydoc-512"] == (
        "task pydoc-512 measures a causal_lm, and model toy is a classifier"
    )


def test_exclude_removes_only_what_matches_every_key(write):
    text = GOOD + "exclude: [{method: toy_*, ratio: 0.5}]\n"
    points = list(grids.read(write(text)).points())

    assert [p.trial.ratio for p in points] == [0.0, 0.25]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("{method: toy_dorp}", "Did you mean 'toy_drop'?"),
        ("{method: [dense, toy_dorp]}", "Did you mean 'toy_drop'?"),
        ("{ratio: 0.45}", "no trial of this block has the ratio 0.45"),
        ("{ratio: [0.25, 0.45]}", "no trial of this block has the ratio 0.45"),
        ("{ratio: '0.25'}", "ratio '0.25' is a text"),
        ("{seed: 7}", "no trial of this block has the seed 7. Known: 0"),
        ("{seed: false}", "seed False is not a number"),
        ("{method: dense, ratio: 0.25}", "matches no trial of this block"),
        ("{method: toy_drop, seed: 1}", "the seed 1. Known: 0"),
        ("{model: null}", "model has no value"),
        ("{ratio: []}", "ratio has no value"),
        ("{}", "a rule without keys drops every trial"),
        ("{method: '*'}", "drop every trial of a block"),
    ],
)
def test_a_rule_of_exclude_that_matches_nothing_or_all_is_an_error(write, rule, reason):
    text = GOOD + f"seeds: [0, 1]\nexclude: [{rule}]\n"

    (found,) = errors(write(text))

    assert found.startswith("exclude: ")
    assert reason in found


def test_a_block_takes_what_it_does_not_say_from_the_keys_beside_blocks(write):
    text = """
models: [toy]
methods: [dense]
tasks: [toy_sum]
dtype: bfloat16
blocks:
  - {dtype: float64}
  - {methods: [toy_drop], ratios: [0.25]}
"""
    points = list(grids.read(write(text)).points())

    said = [(p.trial.method.name, p.trial.ratio, p.trial.dtype) for p in points]
    assert said == [("dense", 0.0, "float64"), ("toy_drop", 0.25, "bfloat16")]


def test_a_common_rule_of_exclude_must_match_in_one_of_the_blocks(write):
    text = """
models: [toy]
tasks: [toy_sum]
exclude: [{method: toy_drop, ratio: 0.25}, {method: toy_drop, ratio: RATIO}]
blocks:
  - {methods: [dense]}
  - {methods: [toy_drop], ratios: [0.25, 0.5, 0.75]}
"""
    points = list(grids.read(write(text.replace("RATIO", "0.5"))).points())

    assert [p.trial.ratio for p in points] == [0.0, 0.75]
    (found,) = errors(write(text.replace("RATIO", "0.6")))
    assert "has the ratio 0.6" in found


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("{model: llama*, gpus: 1}", "no model in this grid called 'llama*'"),
        ("{method: [dense, svdd], gpus: 1}", "no method in this grid called 'svdd'"),
        ("{method: dense, model: toy2, gpus: 1}", "no model in this grid"),
        ("{method: toy_drop, model: toy, cpus: 1}", "no method with a model"),
        ("{method: dense}", "asks for nothing"),
    ],
)
def test_a_rule_of_resources_that_matches_nothing_is_an_error(write, rule, reason):
    text = f"""
tasks: [toy_sum]
ratios: [0.5]
resources: {{for: [{rule}]}}
blocks:
  - {{models: [toy], methods: [dense]}}
  - {{models: [{{name: mlp}}], methods: [toy_drop]}}
"""

    (found,) = errors(write(text))

    assert found.startswith("resources: ")
    assert reason in found


def test_a_ratio_with_an_exponent_is_that_ratio(write):
    text = GOOD.replace("[0.25, 0.5]", "[25e-2]")
    points = list(grids.read(write(text)).points())

    assert [p.trial.ratio for p in points] == [0.0, 0.25]


def test_a_trial_id_changes_with_what_changes_its_number_and_not_with_defaults(write):
    def ids(text: str) -> list[str]:
        return [p.trial.id for p in grids.read(write(text)).points()]

    plain = ids(GOOD)
    same = ids(GOOD.replace("[toy_sum]", "[{name: toy_sum, by: 1}]"))
    other = ids(GOOD.replace("[toy_sum]", "[{name: toy_sum, by: 2}]"))
    scaled = ids(GOOD.replace("models: [toy]", "models: [{name: toy, scale: 3}]"))

    assert plain == same
    assert len({*plain, *other, *scaled}) == 9


def test_unknown_grid_offers_the_nearest_packaged_name():
    with pytest.raises(BenchError, match="Did you mean 'quickstart'"):
        grids.locate("quikstart")


@pytest.mark.parametrize("name", sorted(grids.packaged()))
def test_every_packaged_grid_says_what_it_is(name):
    from harness.planning import yaml_files

    value = yaml_files.read(grids.packaged()[name])

    assert len(value["description"].split()) > 5
    assert set(value) <= set(grids.GRID_KEYS)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("name: 3\n", "name 3 is not a text"),
        ('name: ""\n', "name '' is not a text"),
        ("exclude: {method: dense}\n", "exclude"),
        ("exclude: [dense]\n", "exclude"),
        ("seeds: [9223372036854775808]\n", "seed 9223372036854775808"),
    ],
)
def test_a_key_of_another_type_is_refused(write, lines, reason):
    assert reason in "\n".join(errors(write(GOOD + lines)))


def test_the_largest_seed_is_what_torch_takes(write):
    text = GOOD.replace("toy_drop", "toy_noop") + "seeds: [9223372036854775807]\n"
    seeds = {p.trial.seed for p in grids.read(write(text)).points()}

    assert seeds == {2**63 - 1}


def test_a_grid_is_as_large_as_it_may_be_and_no_larger(write, monkeypatch):
    # The product counts the dense baseline once for each ratio.
    monkeypatch.setattr(grids, "MAX_TRIALS", 4)
    assert len(list(grids.read(write(GOOD)).points())) == 3

    monkeypatch.setattr(grids, "MAX_TRIALS", 3)
    assert "has 4 trials, and 3 are allowed" in errors(write(GOOD))[0]


def test_a_grid_is_found_by_its_path_or_its_packaged_name(write, tmp_path, monkeypatch):
    path = write(GOOD)
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "plain"
    plain.write_text(GOOD)

    assert grids.locate(str(path)) == path
    assert grids.locate("plain").read_text() == GOOD
    assert grids.locate("quickstart") == grids.packaged()["quickstart"]
    assert list(grids.packaged()) == sorted(grids.packaged())
    with pytest.raises(BenchError, match=r"no grid file missing\.yaml"):
        grids.locate("missing.yaml")
    with pytest.raises(BenchError, match="Did you mean 'quickstart'"):
        grids.locate("quickstat")


def test_a_grid_of_the_dense_baseline_alone_needs_no_ratios(write):
    text = "models: [toy]\nmethods: [dense]\ntasks: [toy_sum]\n"
    (point,) = grids.read(write(text)).points()

    assert point.trial.ratio == 0
    both = text.replace("[dense]", "[dense, toy_drop]")
    assert "missing key 'ratios'" in "\n".join(errors(write(both)))


def test_a_grid_that_calibrates_on_what_it_evaluates_is_refused(write):
    text = (
        "models: [smollm2-135m]\nmethods: [svd_llm]\nratios: [0.2]\n"
        "tasks: [{name: pydoc-512, limit: 1}]\ncalibration: {text: pydoc}\n"
    )

    assert any("learn from the test data" in m for m in errors(write(text)))


def test_packaged_grids_are_listed_by_name():
    assert list(grids.packaged()) == sorted(grids.packaged())


def test_an_error_of_a_later_block_says_which(write):
    blocks = "blocks: [{methods: [svdd]}, {methods: [svdx]}, {seeds: [-1]}, 3]\n"
    first, second, third, fourth = errors(write(GOOD + blocks))

    assert first.startswith("no method called 'svdd'")
    assert second.startswith("block 2: no method called 'svdx'")
    assert third.startswith("block 3: seed -1")
    assert fourth == "block 4: 3 is not a mapping"


def test_one_mistake_is_one_error(write):
    # A block with an error has no trials; that is not said, too.
    assert len(errors(write(GOOD + "seeds: [-1]\n"))) == 1
    assert len(errors(write(GOOD + "dtype: float31\n"))) == 1
    assert len(errors(write(GOOD.replace("models:", "model:")))) == 1


@pytest.mark.parametrize("rules", ["[dense]", "{method: dense}", "[{}, 3]"])
def test_exclude_is_a_list_of_mappings(write, rules):
    (said,) = errors(write(GOOD + f"exclude: {rules}\n"))
    assert said == "exclude is a list like [{method: svd, ratio: 0.5}]"


def test_a_common_rule_may_not_drop_a_whole_block(write):
    blocks = "blocks: [{methods: [dense]}, {methods: [toy_drop]}]\n"
    text = GOOD.replace("methods: [dense, toy_drop]\n", "") + blocks
    (said,) = errors(write(text + "exclude: [{method: dense}]\n"))
    assert said == "exclude: the rules drop every trial of a block"


def test_without_seeds_a_random_method_has_seed_0(write):
    points = grids.read(write(GOOD.replace("toy_drop", "toy_noop"))).points()
    assert {p.trial.seed for p in points} == {0}


def test_the_lock_beside_is_read_unless_another_is_given(write, monkeypatch):
    path = write(GOOD)
    read = []
    monkeypatch.setattr(grids.lock, "read", lambda at: read.append(at) or {})

    grids.read(path, locked={})
    assert read == []
    grids.read(path)
    assert read == [path]


def test_only_methods_that_read_calibration_have_one(write):
    methods = GOOD.replace("toy_drop", "wanda")
    trials = [p.trial for p in grids.read(write(methods)).points()]

    assert {(t.method.name, t.calibration is None) for t in trials} == {
        ("dense", True),
        ("wanda", False),
    }
    missing = "calibration: {text: ./missing.txt}\n"
    (said,) = errors(write(methods + missing))
    assert "missing.txt" in said
    grids.read(write(GOOD + missing))  # which nothing reads


@pytest.mark.parametrize(
    ("method", "more", "checked"),
    [
        ("toy_drop", "", 0),
        ("toy_drop", "calibration: {samples: 4}\n", 1),
        ("wanda", "", 1),
    ],
)
def test_a_lock_is_asked_for_a_text_that_a_grid_names_or_reads(
    write, monkeypatch, method, more, checked
):
    asked = []
    monkeypatch.setattr(grids.lock, "check", lambda *args: None)
    monkeypatch.setattr(grids.lock, "check_text", lambda *args: asked.append(args))
    path = write(GOOD.replace("toy_drop", method) + more)

    grids.read(path, locked={"anything": "1"})
    assert len(asked) == checked
    grids.read(path, locked={})  # no plugin is locked
    assert len(asked) == checked

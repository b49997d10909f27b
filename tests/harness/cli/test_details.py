"""`show`, `compare`, `describe`, `init`, as a user types them."""

import re

import pytest
from synthetic import row

from harness.cli import _status
from results.storage.store import open_store

A, B, C = "aaaa0000", "aaab1111", "bbbb2222"


@pytest.fixture
def type_(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def types(*words):
        capsys.readouterr()
        status = _status(list(words))
        return status, *capsys.readouterr()

    return types


@pytest.fixture
def stored(tmp_path):
    store = open_store(tmp_path / "store", create=True)
    identity = '{"method":{"name":"%s","options":{"bits":%d}},"ratio":0.5}'
    for trial, method, bits, values in [
        (A, "svd", 8, [1, 1, 1, 1, 0, 0, 1, 1, 1, 1]),
        (B, "gptq", 4, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ]:
        one = row(trial, method=method, measured={"accuracy": sum(values) / 10})
        one["measurements"][0]["n"] = 10
        one |= {"trial": trial, "identity": identity % (method, bits)}
        sample = {"metric": "accuracy", "values": list(map(float, values))}
        store.append(one, [sample])
    store.append(
        row(C)
        | {
            "trial": C,
            "status": "failed",
            "error_class": "bug",
            "reason": "it \x1b[31mbroke",
            "traceback": "\n".join(f"line {n}" for n in range(40)),
            "measurements": None,
        }
    )
    return store


def test_show_says_what_was_run_and_what_became_of_it(type_, stored):
    status, out, err = type_("show", "bbbb")

    assert (status, err) == (0, "")
    assert out.startswith(f"trial {C}  failed\n")
    assert "\x1b" not in out
    assert "last 12 of 40 lines" in out
    assert "line 39" in out
    assert "line 27" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert "to run it again" in out


def test_show_prints_numbers_with_their_samples(type_, stored):
    _, out, _ = type_("show", A)

    assert re.search(r"accuracy +0\.8 .*\(n 10\)", out)
    assert "traceback" not in out


def test_show_prints_what_is_left_of_the_layers(type_, stored):
    sizes = {"params_dense": 100, "nonzero": 20.0, "bytes_dense": 400, "bytes": 80.0}
    layers = [
        sizes
        | {"layer": f"{block}.{role}", "role": role, "block": block}
        | {"params": params, "rank": 3 + block}
        for block in (0, 1)
        for role, params in (("up", 40.0), ("down", 20.0))
    ]
    stored.append(row("dddd"), layers=layers)

    _, out, _ = type_("show", "dddd")

    # 80 bytes are 640 bits, for 100 weights; of 40 parameters 20 are zero.
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "layer rank parameters kept zeros bits per weight" in lines
    assert "up x2 3 to 4 40.0% 50.0% 6.4" in lines
    assert "down x2 3 to 4 20.0% 0.0% 6.4" in lines


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ("aaa", f"several trials begin with 'aaa': {A}, {B}"),
        ("ffff", "begins with 'ffff'; `shrinkgrid sql"),
    ],
)
def test_a_beginning_of_no_or_of_several_trials_is_one_sentence(
    type_, stored, trial, said
):
    status, out, err = type_("show", trial)

    assert (status, out) == (2, "")
    assert said in err


def test_compare_tells_settings_numbers_and_chance(type_, stored):
    status, out, _ = type_("compare", A, B)

    assert status == 0
    assert re.search(r"method\.name +A svd +B gptq", out)
    assert re.search(r"method\.options\.bits +A 8 +B 4", out)
    assert "ratio" not in out.split("settings that differ")[1].split("numbers")[0]
    assert re.search(r"accuracy +A 0\.8 +B 0\.1 +B - A -0\.7", out)
    # Seven samples go from right to wrong, none the other way: McNemar's exact
    # p value is 2 / 2^7.
    assert "B is better in 0, worse in 7" in " ".join(out.split())
    assert "paired mcnemar: p = 0.01562, different at 5 %" in " ".join(out.split())


def test_compare_of_a_failed_trial_says_that_nothing_is_common(type_, stored):
    status, out, _ = type_("compare", A, C)

    assert status == 0
    assert "they measured no metric in common" in out


@pytest.mark.parametrize("words", [["svd_llm"], ["method", "svd_llm"]])
def test_describe_tells_options_with_type_default_and_meaning(type_, words):
    status, out, _ = type_("describe", *words)

    assert status == 0
    assert out.startswith("method svd_llm\n")
    assert "whitening eigh or cholesky; default eigh" in out
    assert re.search(r"update_samples integer; default 16\n +Number of", out)
    assert "lora Lora or null; default null" in out


def test_describe_writes_values_as_a_grid_does(type_):
    _, out, _ = type_("describe", "class_aware_pruning")
    assert "number or null; default null" in out
    assert "null lets the ratio" in out
    assert not re.search(r"\b(None|True|False)\b", out)


def test_describe_names_the_kind_of_a_plugin_of_another_kind(type_):
    status, _, err = type_("describe", "method", "mlp")
    assert status == 2
    assert "mlp is a model; no method called 'mlp'" in err


def test_describe_suggests_a_name_that_exists(type_):
    status, _, err = type_("describe", "method", "svdllm")

    assert status == 2
    assert "Did you mean 'svd_llm'?" in err


def test_init_writes_a_grid_that_plans_and_overwrites_nothing(type_, tmp_path):
    assert type_("init", "mine.yaml")[0] == 0
    status, out, _ = type_("plan", "mine.yaml", "--store", "none")
    # dense, and two methods at three ratios, with two seeds.
    assert status == 0
    assert "mine: 14 to run" in out

    before = (tmp_path / "mine.yaml").read_text()
    status, _, err = type_("init", "mine.yaml")
    assert status == 2
    assert "mine.yaml exists; choose another name" in err
    assert (tmp_path / "mine.yaml").read_text() == before


@pytest.mark.parametrize(
    ("file", "said"),
    [("mine.txt", "name it mine.txt.yaml"), ("no/such.yaml", "cannot be written")],
)
def test_init_where_no_grid_can_be_is_one_sentence(type_, file, said):
    status, _, err = type_("init", file)

    assert status == 2
    assert said in err


def test_help_lists_every_verb_once_under_a_heading(type_):
    from harness.cli import COMMANDS, GROUPS

    status, out, _ = type_("--help")

    assert status == 0
    for verb in COMMANDS:
        assert len(re.findall(rf"^  {verb} ", out, re.M)) == 1, verb
    assert all(f"{heading}:" in out for heading in GROUPS)
    assert max(map(len, out.splitlines())) <= 80


def test_help_of_a_command_is_that_of_its_option(type_):
    assert type_("help", "show") == type_("show", "--help")
    assert type_("help") == type_("--help")
    status, _, err = type_("help", "lst")
    assert status == 2
    assert "no command called 'lst'. Did you mean 'list'?" in err


def test_no_line_of_the_help_is_cut_at_80_columns(type_):
    _, out, _ = type_("help")

    assert "..." not in out.partition("\n\n")[2]
    assert max(map(len, out.splitlines())) <= 80

"""The digest of the code behind a number sees every module that can change it."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.planning import provenance
from harness.planning.trial import PluginSpec
from harness.running import rows


@pytest.fixture(autouse=True)
def forget():
    """Digests are remembered for the life of a process, in which no code changes."""
    caches = (provenance.code_digest, rows.code_digest)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_it_ignores_words_and_sees_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def digest(text, name):
        (tmp_path / f"{name}.py").write_text(text)
        __import__(name)
        return provenance.code_digest(name)

    typed = "from typing import TYPE_CHECKING\n"
    plain = digest(f"{typed}def f(x):\n    return x + 1\n", "digest_a")
    words = f'"""Doc."""\n{typed}def f(x):\n    """Say."""\n    return x + 1  # why\n'
    hints = f"{typed}if TYPE_CHECKING:\n    import ast\ndef f(x):\n    return x + 1\n"
    code = digest(f"{typed}def f(x):\n    return x + 2\n", "digest_c")

    assert plain == digest(words, "digest_b") == digest(hints, "digest_d") != code


def seen(*modules):
    found = {}
    for module in modules:
        provenance._follow(module, module.partition(".")[0], found)
    return found


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("methods.svd_llm", "methods._kernels.low_rank.factors"),
        ("methods.svd_llm", "harness.toolkit.saved_model"),
        ("methods.hrank", "harness.toolkit.training"),
        ("harness.models.huggingface", "harness.toolkit.checkpoint"),
        ("harness.models.huggingface", "harness.models._language"),
        ("harness.models.vgg16", "harness.models._vgg"),
        ("tasks.text_perplexity", "harness.toolkit.texts"),
        ("tasks.text_perplexity", "tasks._perplexity"),
        ("harness.toolkit.untrusted", "results.text.json_reader"),
    ],
)
def test_it_follows_imports_below_the_four_packages(module, imported):
    assert imported in seen(module)


@pytest.mark.parametrize(
    "module", ["methods.svd_llm", "tasks.text_perplexity", "harness.models.huggingface"]
)
def test_an_edit_of_any_imported_file_changes_it(module, monkeypatch):
    before = provenance.code_digest(module)
    read = Path.read_text
    names = {provenance._source(name, "methods") for name in seen(module)}
    assert len(names) > 5
    for path in names:
        if not read(path).strip():
            continue  # an empty __init__

        def edited(self, *args, changed=path, **kwargs):
            text = read(self, *args, **kwargs)
            return f"{text}\nEDITED = 1\n" if self == changed else text

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", edited)
            provenance.code_digest.cache_clear()
            assert provenance.code_digest(module) != before, path
    provenance.code_digest.cache_clear()
    assert provenance.code_digest(module) == before


def test_every_module_of_ours_that_an_import_loads_is_covered():
    """The interpreter's own list, in a process of its own, is the second opinion."""
    module = "methods.svd_llm"
    script = (
        f"import sys; import {module}; ours = {provenance.OURS}\n"
        "print(*(name for name in sys.modules if name.split('.')[0] in ours))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= set(seen(module))


def test_the_order_of_the_modules_does_not_count():
    one, other = "tasks.digits", "methods.svd"
    found = provenance.code_digest(one, other)
    assert re.fullmatch("[0-9a-f]{12}", found)
    assert found == provenance.code_digest(other, one)


def package(folder, monkeypatch, **files):
    monkeypatch.syspath_prepend(folder)
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_it_follows_the_package_of_an_outside_plugin(tmp_path, monkeypatch):
    files = {
        "outside_a/__init__": "from .deep import one\n",
        "outside_a/deep/__init__": "",
        "outside_a/deep/one": "from ..two import f\nimport outside_a.three\n",
        "outside_a/two": "def f():\n    from . import four\n",
        "outside_a/three": "import json\n",
        "outside_a/four": "",
    }
    # ``import json`` means the library's module, not the one of equal name.
    package(tmp_path, monkeypatch, **files, **{"outside_a/json": ""})
    __import__("outside_a.deep.one")

    assert set(seen("outside_a.deep.one")) == {
        name.removesuffix("/__init__").replace("/", ".") for name in files
    }


def test_it_follows_the_files_beside_a_plugin_file(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, mine="import beside_mine\n", beside_mine="")
    spec = importlib.util.spec_from_file_location("plugin_mine", tmp_path / "mine.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "plugin_mine", module)
    spec.loader.exec_module(module)

    assert set(seen("plugin_mine")) == {"plugin_mine", "beside_mine"}


def digest_of(method, **options):
    part = PluginSpec(name=method, plugin=method, options=json.dumps(options))
    task = PluginSpec(name="digits", plugin="digits")
    model = PluginSpec(name="mlp", plugin="mlp")
    return rows.code_digest(part, task, model)


def code_of(task, options):
    return rows.code_digest(
        PluginSpec(name="dense", plugin="dense"),
        PluginSpec(name=task, plugin=task, options=json.dumps(options)),
        PluginSpec(name="mlp", plugin="mlp"),
    )


def test_it_covers_the_task_that_trains_what_is_timed():
    untrained = code_of("latency", {})
    digits = code_of("latency", {"trained_on": "digits"})
    mnist = code_of("latency", {"trained_on": {"name": "mnist", "limit": 100}})
    assert len({untrained, digits, mnist}) == 3


def test_it_covers_the_statistics_that_a_method_reads(monkeypatch):
    found = []
    monkeypatch.setattr(
        provenance, "code_digest", lambda *modules: found.append(modules) or "0" * 12
    )
    digest_of("svd_llm")
    digest_of("joint_rank_k", whiten=True)
    rows.code_digest.cache_clear()
    read = [m for m in found if "harness.toolkit.calibration" in m]
    assert len(read) == 2
    assert "harness.toolkit.blockwise" in seen("harness.toolkit.calibration")


def test_it_covers_the_members_of_a_chain(monkeypatch):
    one = digest_of("chain", chain=["svd", "round_to_nearest"])
    assert one != digest_of("chain", chain=["svd", {"name": "magnitude", "ratio": 0.1}])

    read, path = (
        Path.read_text,
        provenance._source("methods.round_to_nearest", "methods"),
    )
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: read(self, *a, **k) + ("\nX = 1" if self == path else ""),
    )
    provenance.code_digest.cache_clear()
    rows.code_digest.cache_clear()
    assert digest_of("chain", chain=["svd", "round_to_nearest"]) != one


def test_the_commit_is_what_git_says_or_what_the_shipped_copy_was_told(monkeypatch):
    assert provenance._git(Path(), "--version").startswith("git version")
    with pytest.raises(subprocess.SubprocessError):
        provenance._git(Path(), "no-such-command")
    for told, wanted in (("abc", ("abc", False)), ("abc+", ("abc", True))):
        provenance.commit.cache_clear()
        monkeypatch.setenv("SHRINKGRID_COMMIT", told)
        assert provenance.commit() == wanted
    provenance.commit.cache_clear()


def test_a_checkout_around_an_installed_copy_says_nothing(monkeypatch):
    answers = {"rev-parse": "abc", "ls-files": "harness/core.py", "status": ""}
    monkeypatch.delenv("SHRINKGRID_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "_git", lambda folder, word, *_: answers[word])
    for change, wanted in (
        ({}, ("abc", False)),
        ({"status": " M harness/core.py"}, ("abc", True)),
        ({"ls-files": "other.py"}, (None, None)),
    ):
        answers |= change
        provenance.commit.cache_clear()
        assert provenance.commit() == wanted
    provenance.commit.cache_clear()

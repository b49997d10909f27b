"""The registry finds plugins by name and refuses broken ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT as HERE

from harness.core import BenchError
from harness.planning.configured_plugin import unmet
from harness.registry import PACKAGES, discover, find


@pytest.mark.parametrize("kind", sorted(PACKAGES))
def test_every_plugin_is_found_by_its_name_and_says_what_it_is(kind):
    for name, plugin in discover(kind).items():
        assert find(kind, name) is plugin
        assert plugin.summary.endswith((".", ":")), f"{name}: {plugin.summary!r}"


def test_needs_that_nobody_gives_are_a_reason():
    method, task = find("method", "svd_llm"), find("task", "digits")
    why = unmet(method, find("model", "mlp"), task)

    assert why == "method svd_llm treats a causal_lm, not a classifier"


def test_a_broken_plugin_is_an_error_that_names_it(monkeypatch, tmp_path):
    from harness import registry

    (tmp_path / "broken.py").write_text("import no_such_module\n")
    monkeypatch.setenv("SHRINKGRID_PLUGINS", str(tmp_path))
    registry._load_external.cache_clear()
    registry.discover.cache_clear()

    with pytest.raises(BenchError, match=r"broken\.py does not import"):
        discover("method")
    monkeypatch.delenv("SHRINKGRID_PLUGINS")
    registry._load_external.cache_clear()
    registry.discover.cache_clear()


def test_a_plugin_with_the_name_of_a_packaged_one_is_refused(tmp_path):
    # In a process of its own: what is registered stays.
    packaged = Path(find("method", "magnitude").cls.__module__.replace(".", "/"))
    code = (HERE / packaged.with_suffix(".py")).read_text()
    code = code.replace('"magnitude"', '"svd"')
    (tmp_path / "mine.py").write_text(code)
    words = "from harness.registry import find; find('method', 'svd')"
    env = {**os.environ, "SHRINKGRID_PLUGINS": str(tmp_path / "mine.py")}

    done = subprocess.run(
        [sys.executable, "-c", words],
        env=env,
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "two methods are called 'svd'" in done.stderr

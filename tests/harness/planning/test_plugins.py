"""Registry, options, resources, provenance, failures: the small parts of the engine."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT as HERE

from harness.core import BenchError, NotFinite, Unsupported
from harness.options import build, canonical, dumps
from harness.planning import resources
from harness.registry import PACKAGES, discover, find, unmet
from harness.running import time_limit
from harness.running.failures import ArtifactFailed, TimedOut, classify, redact
from harness.toolkit import devices


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Nested options."""

    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Plug:
    """Options of every kind."""

    count: int
    share: float = 0.5
    name: str = "a"
    mode: Literal["fast", "slow"] = "fast"
    sizes: tuple[int, ...] = (1, 2)
    flag: bool = False
    maybe: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_options_take_what_yaml_gives():
    made = build(
        "method",
        "plug",
        Plug,
        {"count": 3, "share": 1, "sizes": [4, 5], "maybe": None, "inner": {"rate": 2}},
    )

    assert made == Plug(count=3, share=1.0, sizes=(4, 5), inner=Inner(rate=2.0))
    assert isinstance(made.share, float)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "needs the option 'count'"),
        ({"count": 1.5}, "1.5 is not a whole number"),
        ({"count": True}, "True is not a whole number"),
        ({"count": 1, "share": float("nan")}, "not a finite number"),
        ({"count": 1, "mode": "quick"}, "'quick' is not one of 'fast', 'slow'"),
        ({"count": 1, "sizes": [1, "x"]}, "'x' is not a whole number"),
        ({"count": 1, "flag": 1}, "1 is not true or false"),
        ({"count": 1, "naem": "b"}, "Did you mean 'name'?"),
        ({"count": 1, "inner": {"rat": 1}}, "Did you mean 'rate'?"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(options, reason):
    with pytest.raises(BenchError) as caught:
        build("method", "plug", Plug, options)

    assert reason in str(caught.value)


@given(
    st.integers(-5, 5), st.floats(-1e6, 1e6), st.lists(st.integers(0, 9), max_size=4)
)
def test_canonical_options_build_the_same_plugin(count, share, sizes):
    made = build("m", "p", Plug, {"count": count, "share": share, "sizes": sizes})

    assert build("m", "p", Plug, {"count": count, **canonical(made)}) == made


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert dumps({"b": 1, "a": {"d": 2, "c": 3}}) == dumps(
        {"a": {"c": 3, "d": 2}, "b": 1}
    )


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


@pytest.mark.parametrize(
    ("error", "status", "error_class"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "oom"),
        (MemoryError(), "out_of_memory", "oom"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
            "oom",
        ),
        (NotFinite("loss is nan at step 3"), "failed", "nan"),
        (Unsupported("no matrix"), "unsupported", "unsupported"),
        (TimedOut("too long"), "timed_out", "timeout"),
        (BenchError("no data"), "failed", "setup"),
        (ConnectionResetError("gone"), "failed", "infra"),
        (ArtifactFailed("no checkpoint", "oom"), "out_of_memory", "oom"),
        (ZeroDivisionError("x"), "failed", "bug"),
    ],
)
def test_each_error_has_its_class(error, status, error_class):
    failure = classify(error)

    assert (failure.status, failure.error_class) == (status, error_class)
    assert failure.reason


def test_secrets_are_taken_out_of_messages(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef123456")
    monkeypatch.setenv("HOME_SWEET", "not-a-secret")

    said = redact("GET with hf_abcdef123456 from not-a-secret")

    assert said == "GET with <HF_TOKEN> from not-a-secret"


def test_a_limit_interrupts_python_code_and_leaves_no_alarm():
    def work_for_ever() -> None:
        with time_limit.limit(0.05):
            while True:
                pass

    with pytest.raises(TimedOut, match=r"limit of 0\.05 s"):
        work_for_ever()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_later_resource_rules_win_where_they_match():
    rules, wrong = resources.read(
        {
            "cpus": 2,
            "for": [
                {"model": "llama*", "gpus": 1, "memory": "80GB"},
                {"model": "llama-13b", "gpus": 2},
            ],
        }
    )

    assert not wrong
    small, big = rules.of("svd", "llama-7b"), rules.of("svd", "llama-13b")
    assert (small.cpus, small.gpus, small.bytes) == (2, 1, 80_000_000_000)
    assert big.gpus == 2
    assert rules.of("svd", "mlp").gpus is None


def test_the_peak_of_memory_starts_anew_and_sees_what_was_held():
    cpu = torch.device("cpu")
    devices.reset_peaks(cpu)
    before = devices.peak_memory()
    held = torch.ones(30_000_000)  # 120 MB
    after = devices.peak_memory()
    del held

    assert before is not None
    assert after is not None
    assert after - before > 100e6
    devices.reset_peaks(cpu)
    assert (devices.peak_memory() or 0) < after


def test_threads_of_torch_are_those_that_were_given():
    before = devices.threads()
    devices.set_threads(1)

    assert devices.threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
    devices.set_threads(before)

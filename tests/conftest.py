"""Fixtures that several test modules share."""

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# On a busy machine drawing examples takes long; how long says nothing of the code.
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

# A shell starts a command in the background with SIGINT ignored, and every process that
# a test starts would inherit that: tests that interrupt one would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A runner may state a width (workers of pytest-xdist have 80 columns), which changes
# what the commands print; tests that need a width set it.
os.environ.pop("COLUMNS", None)

# Asked for fewer instructions than the processor has, torch 2.13 still packs bfloat16
# for all that oneDNN knows, and then refuses to.
if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# No test reaches for the hub; its clients read this once, when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
# Each test asks the plugins themselves, and writes nothing to the user's cache.
os.environ["SHRINKGRID_REMEMBER"] = "0"
# Plugins that tests load through SHRINKGRID_PLUGINS, never as modules of the suite.
collect_ignore = ["toys"]


# The slow files that take longest, in order.
LONGEST = ("test_hosts", "test_released_numbers", "test_zero_shot_cli", "test_pages")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest, so that no process is left alone with it."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
        )
    )


def pytest_collection_finish() -> None:
    """Spare the collections after each trial the search of all that is imported."""
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data and reference arrays; tests that need them are skipped elsewhere."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SHRINKGRID_TEST_DATA", default))
    if not (folder / "reference").is_dir():
        pytest.skip(f"no test data in {folder} (set SHRINKGRID_TEST_DATA)")
    return folder.resolve()


@pytest.fixture
def offline_datasets(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Point Hugging Face's clients at the prepared cache, without a network."""
    import datasets

    # Links in a folder of ours, where the clients write their locks.
    cache = tmp_path / "datasets"
    cache.mkdir()
    for folder in (shared_data / "hf_datasets").iterdir():
        if folder.is_dir():
            (cache / folder.name).symlink_to(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))  # for processes that we start
    # In this process the client may have been imported with another cache.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def toy_grid(tmp_path: Path, toys: Path):
    """Write a small grid of toys from only what differs; gives its path."""
    import yaml

    def writes(name: str = "grid", **changes) -> Path:
        usual = {
            "models": ["toy"],
            "methods": ["toy_drop"],
            "ratios": [0.25, 0.5, 0.75],
            "tasks": ["toy_sum"],
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(usual | changes))
        return path

    return writes


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make the toy plugins known, here and in workers; gives the folder of counts."""
    from harness import registry
    from harness.planning import plan

    monkeypatch.setenv("SHRINKGRID_PLUGINS", str(Path(__file__).parent / "toys"))
    counts = tmp_path / "counts"
    counts.mkdir()
    monkeypatch.setenv("TOY_COUNTS", str(counts))
    registry._load_external.cache_clear()
    registry.discover.cache_clear()
    plan.configured.cache_clear()  # instances of classes that are loaded again
    return counts


@pytest.fixture(autouse=True)
def _no_trace_in_the_process():
    """Fail the test that leaves the state of torch changed, not the tests after it."""
    import torch

    def state() -> tuple[object, ...]:
        return (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
        )

    before = state()
    yield
    after = state()
    torch.set_grad_enabled(before[0])  # type: ignore[arg-type]
    torch.set_default_dtype(before[2])  # type: ignore[arg-type]
    assert after == before, "this test changed the state of torch"

"""A grid with `placement: blockwise`: the column, and numbers equal to `device`."""

from contextlib import nullcontext
from functools import partial

import pytest
import tiny_llm
import torch
from fake_device import FakeDevices
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.executors.inline import Inline
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.running import artifacts
from harness.running.driver import Driver
from harness.toolkit import devices, host_memory
from results.queries.db import ask
from results.storage.store import open_store

GRID = """
models: [%s]
methods: [dense, wanda, svd_llm]
ratios: [0.4]
tasks: [{name: text_perplexity, text: pydoc-test, window: 32, limit: 4}]
calibration: {samples: 8, length: 32}
dtype: %s
resources: {gpus: 0, placement: %s}
"""


class Quiet:
    """A watcher that shows nothing."""

    def event(self, job, trial, event) -> None:
        """Nothing."""


@pytest.fixture
def folder(tmp_path):
    letters = {chr(i): i for i in range(97, 123)} | {"?": 0}
    backend = Tokenizer(models.WordLevel(letters, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    place = tmp_path / "model"
    tiny_llm.tiny("llama").net.save_pretrained(place)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(place)
    return place


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def test_both_placements_store_equal_numbers(folder, tmp_path, monkeypatch, dtype):
    smaller = partial(host_memory.HostMemory, smallest=256)
    monkeypatch.setattr(host_memory, "HostMemory", smaller)
    found = {}
    for placement in ("device", "blockwise"):
        path = tmp_path / f"{placement}.yaml"
        path.write_text(GRID % (folder, dtype, placement))
        store = open_store(tmp_path / placement, create=True)
        plan = plans.make(grids.read(path))
        Driver(plan=plan, store=store, executor=Inline(), watcher=Quiet()).run()
        rows = ask(store, "SELECT method, status, placement, params FROM trials")
        assert {(r[1], r[2]) for r in rows.rows} == {("ok", placement)}, rows.rows
        numbers = ask(
            store,
            "SELECT method, value FROM trials JOIN measurements USING (attempt) "
            "WHERE metric = 'perplexity'",
        )
        found[placement] = dict(numbers.rows)
        files = list(store.here("scratch").rglob("*.tensor"))
        assert not files, "the files of tensors have no name"

    assert len(found["device"]) == 3
    rounding = 1e-5 if dtype == "float32" else 1e-2
    assert found["blockwise"] == pytest.approx(found["device"], rel=rounding)


def test_a_grid_on_two_devices_stores_the_numbers_of_the_host(
    folder, tmp_path, monkeypatch
):
    found = {}
    for asked in ("gpus: 0", "gpus: 2"):
        path = tmp_path / "grid.yaml"
        text = (GRID % (folder, "float32", "auto")).replace("gpus: 0", asked)
        path.write_text(text.replace("wanda, ", ""))
        store = open_store(tmp_path / asked, create=True)
        plan = plans.make(grids.read(path))
        with FakeDevices(2) as fake, monkeypatch.context() as patch:
            if asked == "gpus: 2":
                patch.setattr(devices, "pick", lambda: fake.devices[0])
                patch.setattr(devices, "several", lambda count: fake.devices[:count])
            Driver(plan=plan, store=store, executor=Inline(), watcher=Quiet()).run()
        rows = ask(
            store,
            "SELECT method, placement, reason, value FROM trials LEFT JOIN "
            "(SELECT * FROM measurements WHERE metric = 'perplexity') USING (attempt)",
        ).rows
        assert {r[2] for r in rows} == {None}, rows
        found[asked] = {(r[0], r[1]): r[3] for r in rows}

    assert found["gpus: 2"] == pytest.approx(
        {
            (name, "devices"): found["gpus: 0"][name, "device"]
            for name in ("dense", "svd_llm")
        },
        rel=1e-4,
    )


def stored(folder, tmp_path, monkeypatch, text, fake=None):
    """Method, placement, reason, and perplexity, of a grid."""
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    store = open_store(tmp_path / str(fake is None), create=True)
    plan = plans.make(grids.read(path))
    with fake or nullcontext(), monkeypatch.context() as patch:
        if fake is not None:
            patch.setattr(devices, "pick", lambda: fake.devices[0])
        Driver(plan=plan, store=store, executor=Inline(), watcher=Quiet()).run()
    return ask(
        store,
        "SELECT method, placement, reason, value FROM trials LEFT JOIN "
        "(SELECT * FROM measurements WHERE metric = 'perplexity') USING (attempt)",
    ).rows


def test_a_grid_in_blocks_on_a_device_stores_the_numbers_of_the_host(
    folder, tmp_path, monkeypatch
):
    smaller = partial(host_memory.HostMemory, smallest=256)
    monkeypatch.setattr(host_memory, "HostMemory", smaller)
    text = GRID % (folder, "float32", "device")
    host = stored(folder, tmp_path, monkeypatch, text)
    text = text.replace("gpus: 0, placement: device", "gpus: 1, placement: blockwise")
    found = stored(folder, tmp_path, monkeypatch, text, FakeDevices())

    assert {r[1:3] for r in found} == {("blockwise", None)}, found
    assert len(found) == 3
    assert {r[0]: r[3] for r in found} == pytest.approx(
        {r[0]: r[3] for r in host}, rel=1e-4
    )


def test_speed_is_not_measured_where_blocks_are_copied_at_each_pass(
    folder, tmp_path, monkeypatch
):
    text = GRID % (folder, "float32", "blockwise")
    text = text.replace("gpus: 0", "gpus: 1").replace(", wanda, svd_llm", "")
    text = text.replace(
        "{name: text_perplexity, text: pydoc-test, window: 32, limit: 4}", "prefill"
    )
    ((_, placement, reason, _),) = stored(
        folder, tmp_path, monkeypatch, text, FakeDevices()
    )

    assert placement == "blockwise"
    assert "prefill would measure how fast blocks are copied" in reason


def test_a_network_that_is_too_large_for_the_memory_is_placed_in_files(
    tmp_path, monkeypatch
):
    store = open_store(tmp_path / "store", create=True)
    net = torch.nn.Linear(1000, 1000)  # 4 MB

    monkeypatch.setattr(devices, "free", lambda: (None, 3 * 10**9, 0))
    artifacts._place(net, torch.float32, "auto", store)
    assert host_memory.of(net) is None

    monkeypatch.setattr(devices, "free", lambda: (None, 2 * 10**9, 0))
    artifacts._place(net, torch.float32, "auto", store)
    assert host_memory.of(net) is not None


@pytest.mark.parametrize(
    ("free", "gpus", "placed"),
    [(13 * 10**9, 1, False), (12 * 10**9 - 1, 1, True), (1, 2, False)],
)
def test_a_network_that_is_too_large_for_a_device_runs_in_blocks(
    tmp_path, monkeypatch, free, gpus, placed
):
    store = open_store(tmp_path / "store", create=True)
    net = torch.nn.Linear(1000, 1000, bias=False)  # as if its 4 MB were 4 GB
    monkeypatch.setattr(host_memory, "COPIES", 2500)
    monkeypatch.setattr(devices, "free", lambda: (free, 1, 0))

    artifacts._place(net, torch.float32, "auto", store, gpus)

    assert (host_memory.of(net) is not None) == placed

"""A host whose network link is cut, and comes back."""

from collections import Counter

import hosts
import pytest
from hosts import TOKEN, until
from lab import TOYS, Lab, finished, rows, start_rays

from results.storage import leases
from results.storage.store import open_store

WHY_NOT = hosts.impossible()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]
# The head notices within seconds, not within Ray's minute.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
GRID = """
models: [toy]
methods: [toy_noop]
ratios: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
tasks: [{name: toy_slow, seconds: 10}]
seeds: [0, 1]
resources: {gpus: 1, time: 100s}
"""


def test_a_host_that_is_cut_off_and_comes_back_costs_what_it_was_running(tmp_path):
    laptop, shared = tmp_path / "laptop", tmp_path / "shared"
    laptop.mkdir()
    (laptop / "toys.py").write_text(TOYS.read_text())
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **QUICK}
    with hosts.hosts(2, hidden=[laptop], env=env) as two:
        lab = Lab(hosts=two, laptop=laptop, shared=shared)
        start_rays(lab)
        store = str(shared / "store")
        (laptop / "link.yaml").write_text(GRID)
        typed = lab.start("submit", "link.yaml", "--store", store)
        until(lambda: on_host2(store), 300, "a finished trial on host 2")
        before = finished(store)

        two.plug(2, into=False)
        until(lambda: lost(store), 90, "a lost trial")
        # The worker there lives, sees the store, and ends its trial; it is not stored.
        two.plug(2, into=True)
        out, err = typed.communicate(timeout=240)

        assert typed.returncode == 0, err + out
    found = rows(store)
    assert before <= {r["attempt"] for r in found if r["status"] == "ok"}
    ok = Counter(r["trial"] for r in found if r["status"] == "ok")
    assert len(ok) == 12
    assert set(ok.values()) == {1}, "no trial has two rows that count"
    (gone,) = [r for r in found if r["status"] == "lost"]
    assert gone["error_class"] == "infra"
    assert not leases.read_all(open_store(store))


def on_host2(store: str) -> bool:
    return any(r["host"] == "host2" for r in rows(store)) if finished(store) else False


def lost(store: str) -> bool:
    return any(r["status"] == "lost" for r in rows(store))

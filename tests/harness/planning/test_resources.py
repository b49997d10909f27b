"""Resources of a grid file, and what a bundle needs to be free."""

import pytest

from harness.planning import resources
from harness.planning.resources import (
    ResourceRequest,
    Resources,
    read,
    shortage,
    unmatched,
)

GB = 10**9


def test_what_is_not_free_puts_a_bundle_back():
    request = ResourceRequest(cpus=1, gpus=0.5, device_bytes=30 * GB, host_bytes=4 * GB)

    assert shortage(request, 31 * GB, 5 * GB) is None
    assert "needs 30 GB of device memory, and only 12 GB is free" in str(
        shortage(request, 12 * GB, 5 * GB)
    )
    # What the worker holds already need not be free once more.
    assert "of host memory" in str(shortage(request, 31 * GB, 2 * GB))
    assert shortage(request, 31 * GB, 2 * GB, held=2 * GB) is None
    assert shortage(request, None, 5 * GB) is None


def test_a_rule_names_several_models_and_takes_some_off_the_device():
    rules, errors = read(
        {
            "device_memory": "3GB",
            "for": [{"model": ["lenet*", "mlp"], "gpus": 0}, {"model": "a", "cpus": 2}],
        }
    )

    assert errors == []
    assert rules.of("svd", "mlp") == Resources(gpus=0)
    assert rules.of("svd", "lenet5") == Resources(gpus=0)
    assert rules.of("svd", "a") == Resources(cpus=2, device_memory="3GB")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"gpus": 1.5}, "neither at most 1 nor a whole number"),
        ({"gpus": -1}, "gpus at least 0"),
        ({"device_memory": "lots"}, "not a size"),
        ({"gpus": 0, "device_memory": "1GB"}, "needs a device"),
        ({"memory": "1.2.3GB"}, "not a size"),
        ({"time": "1.2.3m"}, "not a duration"),
        ({"for": [{"model": 3, "gpus": 1}]}, "model 3 is not a pattern"),
        ({"for": [{"model": ["a", None]}]}, "not a pattern"),
        ({"gpus": 0, "for": [{"device_memory": "1GB"}]}, "needs a device"),
    ],
)
def test_wrong_resources_are_named(value, reason):
    _, errors = read(value)

    assert len(errors) == 1
    assert reason in errors[0]


@pytest.mark.parametrize(
    ("value", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400)]
)
def test_a_time_limit_is_in_seconds(value, seconds):
    assert Resources(time=value).seconds == seconds
    assert Resources(time=0.5).seconds == 0.5
    assert Resources().seconds is None


def test_a_time_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="duration"):
        Resources(time=0)
    with pytest.raises(ValueError, match="duration"):
        Resources(time="0s")


@pytest.mark.parametrize(
    ("value", "count"),
    [("4GB", 4 * GB), ("1.5KiB", 1536), ("2 mib", 2**21), ("7", 7), (7, 7)],
)
def test_memory_is_in_bytes(value, count):
    assert Resources(memory=value).bytes == count
    assert Resources(device_memory=value).device_bytes == count
    assert Resources().bytes is None
    assert Resources().device_bytes is None


def test_a_number_of_processors_is_above_zero():
    assert Resources(cpus=0.5).cpus == 0.5
    with pytest.raises(ValueError, match="cpus must be above 0"):
        Resources(cpus=0)
    assert Resources(gpus=0).gpus == 0
    assert Resources(gpus=1).gpus == 1
    assert Resources(gpus=2).gpus == 2
    assert Resources(gpus=0.5).gpus == 0.5


def test_a_request_reads_as_a_list_of_its_parts():
    assert str(ResourceRequest(cpus=1)) == "1 CPU, 0 GPUs"
    assert str(ResourceRequest(cpus=2, gpus=1)) == "2 CPUs, 1 GPU"
    full = ResourceRequest(cpus=2, gpus=0.5, memory=3 * GB, device="H100")
    assert str(full) == "2 CPUs, 0.5 GPUs of kind H100, 3 GB of memory"


def test_exactly_as_much_as_is_needed_is_enough():
    request = ResourceRequest(cpus=1, device_bytes=30 * GB, host_bytes=4 * GB)

    assert shortage(request, 30 * GB, 4 * GB) is None
    assert shortage(request, 30 * GB - 1, 4 * GB) is not None
    assert shortage(request, 30 * GB, 4 * GB - 1) is not None
    assert "0 GB is free" in str(shortage(request, -5, 4 * GB))


@pytest.mark.parametrize("rules", [{"model": "a"}, ["a"], [{"gpus": 1}, 3]])
def test_rules_are_a_list_of_mappings(rules):
    assert read({"for": rules})[1] == [
        "resources: 'for' is a list of {model: ..., gpus: ...}"
    ]


def test_a_rule_that_matches_nothing_is_named_with_the_nearest_name():
    pairs = [("svd", "mlp"), ("dense", "lenet5")]

    def said(*rules: dict) -> str:
        return "\n".join(unmatched(read({"for": list(rules)})[0], pairs))

    assert (
        said({"model": "mlp", "gpus": 0}, {"method": ["s*", "dense"], "cpus": 2}) == ""
    )
    assert "Did you mean 'mlp'?" in said({"model": "mpl", "gpus": 0})
    assert "Did you mean 'svd'?" in said({"method": ["svd", "sdv"], "gpus": 0})
    assert "asks for nothing" in said({"model": "mlp"})
    assert "asks for nothing" in said({"model": "mlp", "method": "svd"})
    # Each name is in the grid, but not together.
    apart = said({"model": "mlp", "method": "dense", "gpus": 0})
    assert "matches no method with a model" in apart


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


def test_the_names_of_a_grid_are_listed_in_alphabetical_order():
    pairs = [(name, "mlp") for name in ("wanda", "svd", "asvd", "dense", "hrank")]
    rules, _ = read({"for": [{"method": "quite-another", "cpus": 2}]})
    (said,) = unmatched(rules, pairs)
    assert "asvd, dense, hrank, svd, wanda" in said

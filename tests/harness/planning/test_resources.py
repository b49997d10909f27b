"""Resources of a grid file, and what a bundle needs to be free."""

import pytest

from harness.planning.resources import ResourceRequest, Resources, read, shortage

GB = 10**9


def test_what_is_not_free_puts_a_bundle_back():
    request = ResourceRequest(cpus=1, gpus=0.5, device_bytes=30 * GB, host_bytes=4 * GB)

    assert shortage(request, 31 * GB, 5 * GB) is None
    assert "needs 30 GB of device memory, and 12 GB is free" in str(
        shortage(request, 12 * GB, 5 * GB)
    )
    # What the worker holds already need not be free once more.
    assert "of host memory" in str(shortage(request, 31 * GB, 2 * GB))
    assert shortage(request, 31 * GB, 2 * GB, held=2 * GB) is None
    assert shortage(request, None, 5 * GB) is None


def test_a_rule_names_several_models_and_takes_some_off_the_device():
    rules, mistakes = read(
        {
            "device_memory": "3GB",
            "for": [{"model": ["lenet*", "mlp"], "gpus": 0}, {"model": "a", "cpus": 2}],
        }
    )

    assert mistakes == []
    assert rules.of("svd", "mlp") == Resources(gpus=0)
    assert rules.of("svd", "lenet5") == Resources(gpus=0)
    assert rules.of("svd", "a") == Resources(cpus=2, device_memory="3GB")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"gpus": 1.5}, "neither at most 1 nor a whole number"),
        ({"gpus": -1}, "gpus at least 0"),
        ({"device_memory": "lots"}, "no size"),
        ({"gpus": 0, "device_memory": "1GB"}, "needs a device"),
        ({"memory": "1.2.3GB"}, "no size"),
        ({"time": "1.2.3m"}, "no duration"),
        ({"for": [{"model": 3, "gpus": 1}]}, "model 3 is no pattern"),
        ({"for": [{"model": ["a", None]}]}, "no pattern"),
        ({"gpus": 0, "for": [{"device_memory": "1GB"}]}, "needs a device"),
    ],
)
def test_wrong_resources_are_named(value, reason):
    _, mistakes = read(value)

    assert len(mistakes) == 1
    assert reason in mistakes[0]

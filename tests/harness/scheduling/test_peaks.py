"""Peaks on a device by the shape of a model, beside bytes that were counted."""

import pytest
import tiny_llm
import torch
from fake_device import FakeDevices

from harness.contracts.samples import OPTIONS
from harness.core import Context
from harness.planning.trial import PluginSpec
from harness.registry import discover, find
from harness.running.artifacts import seed_everything
from harness.scheduling import peaks
from harness.scheduling.priors import peak_bytes
from harness.toolkit import calibration
from harness.toolkit.shape import Shape, from_config

SEVEN = Shape(
    width=4096, inner=11008, blocks=32, queries=4096, keys=4096, vocabulary=32000
)


def test_the_terms_of_llama_7b_are_those_of_hand_arithmetic():
    found = peaks.terms(SEVEN, "float16", samples=256, length=2048)

    assert found["weights"] == 2 * 6_738_149_376
    # Four square matrices and three of 4096 x 11008 in each of 32 blocks.
    assert found["scores"] == 4 * 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert found["block"] == found["scores"] / 32
    assert found["matrix"] == 8 * 4096 * 11008  # 0.36 GB
    assert found["gram"] == 8 * 11008**2  # 0.97 GB
    assert found["states"] == 256 * 2048 * 4096 * 2  # 4.3 GB
    assert found["batch"] == 4 * 2048 * 11008  # one window is more than 1,024 tokens
    assert found["logits"] == 4 * 2048 * 32000


def test_short_windows_share_a_batch():
    found = peaks.terms(SEVEN, "float32", samples=3, length=300)

    assert found["batch"] == 4 * 900 * 11008  # three windows are below 1,024 tokens
    assert (
        peaks.terms(SEVEN, "float32", samples=9, length=300)["batch"]
        == (found["batch"])
    )


def test_two_copies_of_the_weights_are_the_least():
    weights = SEVEN.params * 2
    for method in peaks.factors():
        found = peaks.predicted(method, SEVEN, "float16", {"samples": 8, "length": 128})
        assert found.mid >= 1.9 * weights, method
        assert found.low < found.mid < found.high


def test_a_peak_is_of_the_calibration_and_the_batch_of_the_task():
    def peak(said: dict[str, int], *evaluated: tuple[int, int]) -> float:
        found = peaks.predicted("wanda", SEVEN, "float16", said, *evaluated)
        assert found is not None
        return found.mid

    # A calibration that states nothing has 64 windows of 512 tokens.
    assert peak({}) == peak({"samples": 64, "length": 512})
    assert peak({"samples": 64}) == peak({"length": 512}) == peak({})
    assert len({peak({}), peak({"samples": 65}), peak({"length": 513})}) == 3
    # The largest step counts: of one token, and of a very long window.
    assert peak({}) == peak({}, (1, 1)) < peak({}, (1, 10**6))


def test_a_method_or_a_model_that_was_not_counted_has_no_prediction():
    spec = PluginSpec(name="svd", plugin="svd")
    other = PluginSpec(name="x", plugin="toy")
    known = PluginSpec(
        name="7b", plugin="huggingface", options='{"id": "huggyllama/llama-7b"}'
    )
    far = PluginSpec(name="b", plugin="huggingface", options='{"id": "nobody/b"}')
    words = ("float16", "{}", '{"window": 2048}')

    assert peak_bytes(spec, known, *words).mid > 27e9
    assert peak_bytes(spec, far, *words) is None
    assert peak_bytes(other, known, *words) is None


def test_every_packaged_method_of_language_models_was_counted():
    language = {
        name
        for name, plugin in discover("method").items()
        if "causal_lm" in plugin.facts["kinds"]
        # Another test may have loaded plugins of its own.
        and plugin.cls.__module__.startswith("methods.")
    }
    assert language <= set(peaks.factors())


FAST = {"svd", "wanda"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in sorted(peaks.factors())
    ],
)
def test_a_method_stays_within_the_predicted_peak(name, tmp_path):
    # Another shape than those that the factors were solved on.
    sizes = {"hidden_size": 128, "intermediate_size": 288, "num_hidden_layers": 5}
    model = tiny_llm.tiny("llama", vocab_size=512, head_dim=32, **sizes)
    shape = from_config(model.net.config.to_dict())
    read = {"samples": 6, "length": 32}
    options = OPTIONS.get(name, {})
    method = find("method", name).build(options)
    with FakeDevices() as fake:
        (device,) = fake.devices
        fake.move(model.net, device)
        calibration.build(model, calibration.CalibrationSpec(**read), tmp_path)
        fake.reset_peak()
        ctx = Context(
            model=model,
            seed=0,
            device=device,
            calibrate=lambda: calibration.open(tmp_path),
        )
        predicted = peaks.predicted(name, shape, "float32", read, (1, 32))
        fake.limit = int(predicted.high)  # more is out of memory
        seed_everything(0, "fit")
        fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
        fixed = method.ratios("float32") if hasattr(method, "ratios") else None
        ratio = 0.0 if name == "dense" else (fixed or (0.2,))[0]
        net = method.compress(fitted, ratio, ctx)
        with torch.inference_mode():
            net(input_ids=torch.arange(32)[None].to(device), use_cache=False)
        counted = fake.peak[device]

    assert predicted.low <= counted <= predicted.high

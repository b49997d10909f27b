"""Every method of language models gives one network in memory and in mapped files."""

from dataclasses import replace

import pytest
import tiny_llm
import torch

from harness.contracts.samples import OPTIONS
from harness.core import Model, Unsupported
from harness.registry import discover, facts, find
from harness.running.artifacts import seed_everything
from harness.toolkit import calibration, experts, host_memory, plain_checkpoint
from harness.toolkit.host_memory import HostMemory
from tasks._perplexity import window_losses

METHODS = [
    name
    for name, plugin in discover("method").items()
    if "causal_lm" in facts(plugin, plugin.build(OPTIONS.get(name, {})))["kinds"]
]


def network(family, folder, host=None):
    """The same network, in memory or mapped from a checkpoint."""
    model = tiny_llm.tiny(family)
    if host is not None:
        plain_checkpoint.write(model.net, folder / "dense")
        net = type(model.net).from_pretrained(folder / "dense").eval()
        experts.split(net)
        host_memory.hold(net, host)
        model = model.with_net(net)
    return model


def compressed(name: str, model: Model, folder):
    plugin = find("method", name)
    method = plugin.build(OPTIONS.get(name, {}))
    spec = calibration.CalibrationSpec(samples=12, length=32)
    calibration.build(model, spec, folder)
    ctx = replace(tiny_llm.context(model), calibrate=lambda: calibration.open(folder))
    fixed = method.ratios("float32") if hasattr(method, "ratios") else None
    ratio = 0.0 if facts(plugin, method)["ratio_of"] == "none" else (fixed or (0.4,))[0]
    seed_everything(0, "fit")
    fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
    seed_everything(0, "compress")
    return method.compress(fitted, ratio, ctx).eval()


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("gpt2", "qwen3_moe")),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "asvd" else name
        for name in METHODS
    ],
)
def test_a_network_in_files_is_compressed_as_one_in_memory(name, family, tmp_path):
    host = HostMemory(tmp_path, smallest=256)
    models = [network(family, tmp_path), network(family, tmp_path, host)]
    before = {k: v.clone() for k, v in models[1].net.state_dict().items()}
    windows = list(torch.arange(96).mul(37).remainder(256).split(32))
    losses = []
    for number, model in enumerate(models):
        try:
            net = compressed(name, model, tmp_path / f"calibration-{number}")
        except Unsupported as why:
            pytest.skip(str(why))
        losses.append(window_losses(model.with_net(net), windows))

    assert host_memory.of(net) is host
    ranges = host_memory._mapped_ranges()
    large = [p for p in net.parameters() if p.numel() * p.element_size() >= 256]
    outside = [tuple(p.shape) for p in large if not host_memory._is_mapped(p, ranges)]
    assert not outside, "weights of the compressed network are in memory"
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    after = models[1].net.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())

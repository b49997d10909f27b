"""Image classifiers as ONNX graphs, checked with onnxruntime."""

import shutil

import numpy as np
import pytest
import torch
from small_nets import context, dense
from tiny_llm import tiny
from torch import nn

from harness.core import BenchError, Model
from harness.registry import find
from harness.toolkit import onnx_form

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Threshold(nn.Module):
    """Adds a number for each pixel above 1/2 that torch and the runtime agree on."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, images):
        flat = images.flatten(1)
        return self.linear(torch.where(flat > 0.5, flat, -flat))


def small(net=None):
    return Model(
        name="small",
        net=(Threshold() if net is None else net).eval(),
        kind="classifier",
        roles={},
        example=lambda: {"images": torch.zeros(1, 1, 2, 2)},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One graph, which several tests read: an export takes a second or more."""
    torch.manual_seed(0)
    model, folder = small(), tmp_path_factory.mktemp("graph")
    gap = onnx_form.write(model, folder, "# A card\n")
    return model, folder, gap


def test_the_graph_computes_the_logits_of_the_network_for_any_batch(written):
    model, folder, gap = written

    assert gap <= 1e-6
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    images = np.random.default_rng(1).random((7, 1, 2, 2), dtype=np.float32)
    (told,) = session.run(["logits"], {"images": images})
    # A second implementation, by hand.
    flat = images.reshape(7, 4).astype(np.float64)
    flat = np.where(flat > 0.5, flat, -flat)
    weight, bias = (p.detach().double().numpy() for p in model.net.linear.parameters())
    np.testing.assert_allclose(told, flat @ weight.T + bias, rtol=1e-5, atol=1e-6)


def test_the_code_of_the_card_runs(written, monkeypatch):
    _, folder, _ = written

    card = (folder / "README.md").read_text()

    assert card.startswith("# A card\n")
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    names = {}
    exec(code, names)
    assert names["logits"].shape == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lenet5", "resnet20", "densenet", "vgg_small"])
def test_networks_with_fewer_filters_become_graphs(tmp_path, family):
    model = dense(family, {"classes": 10, "input": [3, 32, 32]})
    method = find("method", "l1_filter").build({})
    made = method.compress(None, 0.5, context(model)).eval()

    assert onnx_form.write(model.with_net(made), tmp_path, "") <= onnx_form.TOLERANCE


def test_a_graph_with_other_logits_is_not_left(written, tmp_path, monkeypatch):
    _, folder, _ = written
    monkeypatch.setattr(
        onnx_form,
        "_export",
        lambda net, images, path, name: shutil.copy(folder / "model.onnx", path),
    )
    torch.manual_seed(1)  # a network of other weights

    with pytest.raises(BenchError, match="and 1e-05 is allowed; nothing was written"):
        onnx_form.write(small(), tmp_path, "")

    assert not list(tmp_path.iterdir())


class Early(nn.Module):
    """Stops for a batch whose sum is above 0, which no graph can express."""

    def forward(self, images):
        if float(images.sum()) > 0:
            return images.flatten(1)
        return -images.flatten(1)


def test_a_network_that_no_graph_can_express_is_refused(tmp_path):
    with pytest.raises(BenchError, match="torch cannot write the network of small"):
        onnx_form.write(small(Early()), tmp_path, "")

    assert not list(tmp_path.iterdir())


def test_early_exits_are_refused(tmp_path):
    from methods._kernels.early_exit.network import ExitNet

    stack = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2))
    heads = [{"features": 4, "classes": 2, "pool": 0, "conv": False}]
    net = ExitNet(stack, exits=["1"], heads=heads, rule="confidence", thresholds=[0.5])

    with pytest.raises(BenchError, match="early exits: which layers run depends"):
        onnx_form.write(small(net), tmp_path, "")


def test_other_models_are_refused(tmp_path):
    with pytest.raises(BenchError, match="take --format hf"):
        onnx_form.write(tiny("llama"), tmp_path, "")
    with pytest.raises(BenchError, match="has weights of float16, and the form onnx"):
        onnx_form.write(small(Threshold().half()), tmp_path, "")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(onnx_form, "_PACKAGES", ("onnx", "no_such_package"))

    with pytest.raises(BenchError, match="onnx needs no_such_package: install with"):
        onnx_form.check_packages()

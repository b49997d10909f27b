"""The perplexities that the released implementations give on SmolLM2-135M.

Origin: AIoT-MLSys-Lab/SVD-LLM at 1c1009a (whitening step) and TUDa-HWAI/Basis_Sharing
at 8fa941e (groups of two), run on SmolLM2-135M in float32 at ratio 0.2. Evaluation: 32
rows of 1,024 tokens of WikiText-2's raw test split; calibration: 64 windows of 512
tokens of its tokenised validation split.
"""

import math
import shutil
from functools import cache

import pytest
import torch

from harness.core import Context
from harness.registry import find
from harness.toolkit import calibration
from harness.toolkit.model_size import size

pytest.importorskip("gguf")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SVD_LLM, BASIS_SHARING = 81.442, 87.258


@pytest.fixture(scope="module")
def setting(request, tmp_path_factory):
    data = request.getfixturevalue("shared_data")
    copy = tmp_path_factory.mktemp("hf")
    name = "Salesforce___wikitext"
    shutil.copytree(data / "hf_datasets" / name, copy / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(copy))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", copy)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        model = find("model", "smollm2-135m").build({}).load()
        folder = tmp_path_factory.mktemp("calibration")
        spec = calibration.CalibrationSpec(
            text="wikitext2-validation", samples=64, length=512
        )
        calibration.build(model, spec, folder)
        yield Context(
            model=model,
            seed=0,
            device=torch.device("cpu"),
            calibrate=lambda: calibration.open(folder),
        )


@pytest.fixture(scope="module")
def measured(setting):
    """The losses of the first rows under a method at 0.2, and its parameters."""

    @cache
    def measure(name, rows=32):
        method = find("method", name).build({})
        net = method.compress(method.fit(setting.model, setting), 0.2, setting).eval()
        task = find("task", "wikitext2-1024").build({"limit": rows})
        model = setting.model.with_net(net)
        found = {m.metric: m for m in task.evaluate(model)}
        return found["loss"].values, size(model).params

    return measure


def perplexity(losses):
    return math.exp(math.fsum(losses) / len(losses))


def test_basis_sharing_agrees_with_its_released_code(measured):
    losses, _ = measured("basis_sharing")
    assert perplexity(losses) == pytest.approx(BASIS_SHARING, rel=0.005)


def test_svd_llm_agrees_with_its_released_code(measured):
    losses, _ = measured("svd_llm")
    assert perplexity(losses) == pytest.approx(SVD_LLM, rel=0.005)


def test_water_filling_is_a_fifth_better_than_both_and_no_larger(measured):
    ours, params = measured("water_filling", rows=8)
    rivals = [measured(name) for name in ("svd_llm", "basis_sharing")]
    assert perplexity(ours) <= 0.8 * min(perplexity(losses[:8]) for losses, _ in rivals)
    assert params <= min(p for _, p in rivals)

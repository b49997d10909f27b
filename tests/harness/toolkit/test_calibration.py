import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_llm import FAMILIES, context, tiny

from harness.core import BenchError, NotFinite
from harness.toolkit import calibration
from harness.toolkit.calibration import CalibrationSpec
from methods._kernels.low_rank.factors import linears


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_statistics_equal_those_of_whole_forward_passes(family, tmp_path):
    # Second implementation: hooks on every matrix, all windows in one forward pass.
    model = tiny(family)
    found = context(model, tmp_path).calibration()
    seen = {}
    for name, module in linears(model).items():
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.__setitem__(name, args[0].detach())
        )
    with torch.no_grad():
        model.net(input_ids=found.tokens, use_cache=False)

    for name, x in seen.items():
        rows = x.reshape(-1, x.shape[-1]).double()
        expected = rows.T @ rows / len(rows)
        torch.testing.assert_close(
            found.gram(name).double(), expected, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            found.mean_abs(name).double(), rows.abs().mean(0), rtol=1e-4, atol=1e-5
        )


def test_matrices_that_read_one_tensor_share_one_site(tmp_path):
    found = context(tiny("llama"), tmp_path).calibration()
    block = "model.layers.1"

    assert found.site_of(f"{block}.self_attn.v_proj") == f"{block}.self_attn.q_proj"
    assert found.site_of(f"{block}.mlp.up_proj") == f"{block}.mlp.gate_proj"
    assert found.site_of(f"{block}.mlp.down_proj") == f"{block}.mlp.down_proj"
    stored = load_file(found.folder / "block-0001.safetensors")
    assert len(stored) == 2 * 4  # qkv, output, gate and up, down: Gram and mean |x|


def test_first_windows_lie_side_by_side_and_random_ones_obey_the_seed():
    ids = torch.arange(100)
    first = calibration.sample(ids, CalibrationSpec(samples=3, length=4))
    assert first.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]

    def drawn(seed):
        spec = CalibrationSpec(samples=5, length=4, sampling="random", seed=seed)
        return calibration.sample(ids, spec)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(drawn(1).diff(dim=1), torch.ones(5, 3, dtype=torch.long))


def test_too_short_a_text_says_how_many_tokens_are_missing(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("too short")
    with pytest.raises(BenchError, match="has 9 tokens, and 12 first windows of 32"):
        context(tiny("llama"), tmp_path, text=str(text))


def test_windows_longer_than_the_model_reads_are_refused(tmp_path):
    with pytest.raises(BenchError, match="more than the 64 tokens"):
        context(tiny("llama"), tmp_path, length=65)


def test_an_input_that_is_not_finite_names_its_layer(tmp_path):
    model = tiny("llama")
    with torch.no_grad():
        model.net.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(NotFinite, match=r"model\.layers\.1\.mlp\.down_proj"):
        context(model, tmp_path)


def test_a_layer_without_statistics_is_named(tmp_path):
    found = context(tiny("llama"), tmp_path).calibration()
    with pytest.raises(BenchError, match="no calibration statistics of layer lm_head"):
        found.gram("lm_head")


def test_a_folder_without_calibration_is_refused(tmp_path):
    with pytest.raises(BenchError, match="holds no calibration"):
        calibration.open(tmp_path)


@pytest.mark.parametrize("options", [{"samples": 0}, {"length": 1}])
def test_a_window_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match="is not"):
        CalibrationSpec(**options)


def test_the_index_is_json_that_names_no_place_on_this_machine(tmp_path):
    found = context(tiny("gpt2"), tmp_path).calibration()
    text = (found.folder / "calibration.json").read_text()
    assert set(json.loads(text)) == {"sites", "files", "samples"}
    assert str(tmp_path) not in text

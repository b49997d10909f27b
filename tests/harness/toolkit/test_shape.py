"""Sizes from a configuration alone, beside the parameters that real files hold."""

import json

import pytest
import tiny_llm

from harness.models import huggingface
from harness.planning.trial import PluginSpec
from harness.scheduling.priors import guessed_params, shape_of
from harness.toolkit import model_size
from harness.toolkit.shape import from_config

# Parameters of the published files: elements of all tensors in their safetensors index,
# equal to the arithmetic with the norms (and, for OPT, the biases).
PARAMS = {
    "jeffwan/llama-7b-hf": 6_738_415_616,
    "jeffwan/llama-13b-hf": 13_015_864_320,
    "jeffwan/llama-30b-hf": 32_528_943_616,
    "huggyllama/llama-65b": 65_285_660_672,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen3-8B-Base": 8_190_735_360,
    "facebook/opt-6.7b": 6_658_473_984,
}


@pytest.mark.parametrize("name", PARAMS)
def test_published_sizes_give_the_parameters_of_the_files_without_the_hub(name):
    part = PluginSpec(name=name, plugin="huggingface", options=f'{{"id": "{name}"}}')

    assert shape_of(part).params == pytest.approx(PARAMS[name], rel=1e-3)
    assert guessed_params(part) == shape_of(part).params


@pytest.mark.parametrize("family", tiny_llm.FAMILIES)
def test_a_configuration_gives_the_matrices_of_the_network(family):
    model = tiny_llm.tiny(family)
    found = from_config(model.net.config.to_dict())

    matrices = [p for _, p in model_size.block_weights(model) if p.ndim == 2]
    assert found.blocks * found.block == sum(p.numel() for p in matrices)
    whole = {id(p): p.numel() for p in model.net.parameters() if p.ndim == 2}
    # OPT has two more positions than its configuration says.
    assert found.params == pytest.approx(sum(whole.values()), rel=3e-3)


def test_a_folder_states_its_own_sizes_and_experts_have_none(tmp_path):
    config = tiny_llm.config("llama").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    family = huggingface.HuggingFace(id=str(tmp_path))

    assert family.shape().width == 24
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_experts": 8}))
    assert family.shape() is None
    (tmp_path / "config.json").write_text("[")
    assert family.shape() is None
    assert huggingface.HuggingFace(id="nobody/nothing").shape() is None

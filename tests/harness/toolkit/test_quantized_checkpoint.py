"""Rounded networks in the format of compressed-tensors."""

import json

import pytest
import torch
from tiny_llm import context, logits, tiny
from torch import nn

from harness.registry import find
from harness.toolkit import hugging_face_form, quantized_checkpoint
from methods._kernels.integer_grid import fit_grid, in_groups
from methods._kernels.rounded import rounded_layer


def layer(bits, levels, size, shape=(5, 12), **extras):
    """A rounded layer of random weights with a bias."""
    torch.manual_seed(0)
    module = nn.Linear(shape[1], shape[0])
    groups = in_groups(module.weight.detach(), size)
    grid = fit_grid(groups, bits, levels, torch.float32)
    codes = grid.codes(groups).flatten(1)[:, : shape[1]]
    return rounded_layer(module, codes, grid, group_size=size, **extras)


def compressed(family, options, tmp_path, name="round_to_nearest", **changes):
    """A tiny language model with rounded weights, and where its source is."""
    model = tiny(family, **changes)
    method = find("method", name).build(options)
    ctx = context(model, tmp_path / "calibration")
    fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
    fixed = method.ratios() if hasattr(method, "ratios") else None
    net = method.compress(fitted, (fixed or [0.3])[0], ctx)
    source = tmp_path / "source"
    model.net.config.save_pretrained(source)
    (tmp_path / "out").mkdir()
    origin = {"model": str(source), "options": {}, "revision": "", "shape": None}
    return model.with_net(net.eval()), origin


def test_words_are_filled_from_the_lowest_bit():
    made = layer(4, "asymmetric", 4, shape=(1, 12))
    made.codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15, 9, 0, 0, 0]]).to(torch.uint8)
    made.zeros = torch.tensor([[10, 0, 15]], dtype=torch.uint8)

    named = quantized_checkpoint.packed(made)

    # Eight codes of 4 bits in a word, the first one lowest: 0xF7654321 is negative as
    # an int32. The rest of the second word is empty.
    assert named["weight_packed"].tolist() == [[0xF7654321 - 2**32, 9]]
    # One row of zero points: each column has a word of its own.
    assert named["weight_zero_point"].tolist() == [[10, 0, 15]]
    assert named["weight_shape"].tolist() == [1, 12]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("levels", ["narrow", "full", "asymmetric"])
def test_the_package_reads_the_weights_of_the_layer(bits, levels):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    made = layer(bits, levels, 4)
    weights = {"num_bits": bits, "symmetric": made.zeros is None, "group_size": 4}
    scheme = QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(strategy="group", **weights)
    )

    packer = BaseCompressor.get_value_from_registry("pack-quantized")
    read = packer.decompress(quantized_checkpoint.packed(made), scheme)

    assert torch.equal(read["weight"], made.weight)


@pytest.mark.parametrize(
    ("family", "method", "options", "words"),
    [
        ("llama", "round_to_nearest", {"bits": 3}, "has 3 bits a weight"),
        ("llama", "round_to_nearest", {"group_size": 7}, "has 24 columns, which"),
        ("gpt2", "round_to_nearest", {"bits": 8}, "is a Conv1D in the class"),
        ("llama", "awq", {"group_size": 8}, "divides its columns by numbers"),
        (
            "llama",
            "gptq",
            {"bits": 4, "group_size": 8, "act_order": True},
            "columns that are no neighbours",
        ),
        (
            "llama",
            "chain",
            {"chain": ["svd", {"name": "round_to_nearest", "bits": 8}]},
            "is a layer of the kind low_rank",
        ),
    ],
)
def test_what_the_format_cannot_express_keeps_its_own_layers(
    tmp_path, family, method, options, words
):
    model, origin = compressed(family, options, tmp_path, method)
    folder = tmp_path / "out"

    written = hugging_face_form.write(model, origin, folder, "")

    assert written.form == "own layers"
    assert "not in the format of compressed-tensors: " in written.note
    assert words in written.note
    assert (folder / hugging_face_form.MODELING).is_file()


def test_groups_of_layers_with_other_widths_are_named(tmp_path):
    # Groups of 32 columns: a whole row where the input has 24, and not where it has 64.
    options = {"bits": 4, "group_size": 32}
    model, origin = compressed("llama", options, tmp_path, intermediate_size=64)
    folder = tmp_path / "out"

    written = hugging_face_form.write(model, origin, folder, "")

    assert written.form == "compressed-tensors"
    config = json.loads((folder / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"].values()
    kinds = {g["weights"]["strategy"]: g["targets"] for g in groups}
    assert len(kinds["channel"]) == 6 * 3
    assert kinds["group"] == [f"model.layers.{n}.mlp.down_proj" for n in range(3)]


def test_half_precision_stays_what_was_measured(tmp_path):
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    options = {"bits": 8, "symmetric": False}
    model, origin = compressed("qwen2", options, tmp_path, dtype=torch.bfloat16)
    folder = tmp_path / "out"

    written = hugging_face_form.write(model, origin, folder, "")

    assert written == hugging_face_form.Written(form="compressed-tensors")
    opened = AutoModelForCausalLM.from_pretrained(folder)
    assert opened.dtype == torch.bfloat16
    assert torch.equal(logits(opened), logits(model.net))


def test_without_the_package_the_folder_is_written_and_not_checked(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(quantized_checkpoint, "PACKAGE", "no_such_package")
    model, origin = compressed("opt", {"bits": 8}, tmp_path)

    written = hugging_face_form.write(model, origin, tmp_path / "out", "# A card\n")

    assert written.form == "compressed-tensors"
    assert "not opened here" in written.note
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pip install compressed-tensors" in card


def test_a_folder_that_gives_other_logits_is_not_left(tmp_path, monkeypatch):
    pytest.importorskip("compressed_tensors")
    model, origin = compressed("llama", {"bits": 8}, tmp_path)
    half = quantized_checkpoint.packed
    monkeypatch.setattr(
        quantized_checkpoint,
        "packed",
        lambda one: {n: t / 2 if "scale" in n else t for n, t in half(one).items()},
    )
    folder = tmp_path / "out"

    written = hugging_face_form.write(model, origin, folder, "")

    assert written.form == "own layers"
    assert "transformers computes other logits" in written.note
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config

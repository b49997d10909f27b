"""Parameters of a folder by its files, against networks of known size."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.toolkit.stored_size import stored_params

NET = nn.Linear(30, 20)  # 30 x 20 weights and 20 biases


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_safetensors_file_counts_its_elements_whatever_their_dtype(dtype, tmp_path):
    tensors = {k: v.to(dtype) for k, v in NET.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})

    assert stored_params(tmp_path) == 620


def test_shards_count_together_and_files_that_the_index_omits_do_not(tmp_path):
    for name in ("a", "b", "consolidated"):
        save_file(NET.state_dict(), tmp_path / f"{name}.safetensors")
    names = {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))

    assert stored_params(tmp_path) == 2 * 620


@pytest.mark.parametrize(
    ("config", "params"),
    [({}, 1000), ({"torch_dtype": "bfloat16"}, 2000), ({"dtype": "float64"}, 500)],
)
def test_a_pytorch_file_counts_by_its_size(config, params, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(4000))

    assert stored_params(tmp_path) == params


def test_safetensors_win_over_a_copy_in_the_pytorch_format(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(4000))
    save_file(NET.state_dict(), tmp_path / "model.safetensors")

    assert stored_params(tmp_path) == 620


def header(shape: object, tail: int = 0) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": shape}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(tail)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5000\n",
        b"",
        b"\xff" * 100,
        (10**12).to_bytes(8, "little") + b"{}",
        header([10**400]),
        header([-4, 3]),
        header("abc"),
        header([3, 4])[:20],
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_files_without_readable_weights_have_no_count(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)

    assert stored_params(tmp_path) is None


def test_a_folder_without_weights_has_no_count(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"version https://git-lfs.git")

    assert stored_params(tmp_path) is None
    assert stored_params(tmp_path / "missing") is None


def test_a_header_that_states_more_than_half_bytes_is_not_believed(tmp_path):
    path = tmp_path / "model.safetensors"
    most = 2 * len(header([10]))  # as many digits, so that the length is the same

    path.write_bytes(header([most]))
    assert stored_params(tmp_path) == most
    path.write_bytes(header([most + 1]))
    assert stored_params(tmp_path) is None


def test_a_dtype_that_is_not_known_counts_four_bytes_a_weight(tmp_path):
    (tmp_path / "config.json").write_text('{"dtype": "float8_e4m3fn"}')
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(400))

    assert stored_params(tmp_path) == 100

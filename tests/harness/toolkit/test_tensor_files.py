"""Tensors read from files own aligned memory, whatever the file's header is."""

import re

import pytest
import torch
from paths import ROOT
from safetensors import safe_open
from safetensors.torch import save_file

from harness.core import BenchError
from harness.toolkit.tensor_files import (
    ALIGNMENT,
    own_memory,
    read_header,
    read_tensor,
    read_tensors,
)

READERS = re.compile(r"\b(load_file|safe_open)\b")


def unaligned(like: torch.Tensor) -> torch.Tensor:
    """A float32 tensor with the same values, four bytes behind an aligned address."""
    room = torch.empty(like.numel() + ALIGNMENT // 4)
    first = (-room.data_ptr() % ALIGNMENT) // 4 + 1
    moved = room[first : first + like.numel()].view(like.shape).copy_(like)
    assert moved.data_ptr() % ALIGNMENT == 4
    return moved


@pytest.mark.parametrize("padding", range(8))
def test_tensors_are_aligned_wherever_the_header_ends(tmp_path, padding):
    path = tmp_path / "a.safetensors"
    written = {"weight": torch.randn(5, 3), "bias": torch.randn(3)}
    save_file(written, path, metadata={"note": "x" * padding})

    found = read_tensors(path)

    assert found.keys() == written.keys()
    for name, value in found.items():
        assert torch.equal(value, written[name])
        assert value.data_ptr() % ALIGNMENT == 0
    assert torch.equal(read_tensor(path, "bias"), written["bias"])
    assert read_tensor(path, "bias").data_ptr() % ALIGNMENT == 0
    assert read_header(path) == {"note": "x" * padding}


def test_the_library_itself_gives_unaligned_tensors(tmp_path):
    # If this ever fails, safetensors aligns by itself and the module can go.
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.randn(1), "b": torch.randn(64)}, path)
    with safe_open(path, framework="pt") as file:
        rests = {file.get_tensor(name).data_ptr() % ALIGNMENT for name in ("a", "b")}

    assert rests != {0}


def test_unaligned_weights_move_and_tied_ones_stay_tied():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    net[1].weight = net[0].weight
    net.register_buffer("scale", unaligned(torch.ones(3)))
    values = torch.randn(4, 4)
    net[0].weight.data = unaligned(values)
    kept = net[0].bias.data_ptr()

    own_memory(net)

    assert net[0].weight is net[1].weight
    assert torch.equal(net[0].weight, values)
    assert all(
        t.data_ptr() % ALIGNMENT == 0 for t in (*net.parameters(), *net.buffers())
    )
    assert net[0].bias.data_ptr() == kept, "aligned tensors are not copied"


def test_every_reader_of_safetensors_goes_through_this_module():
    sources = [
        path
        for package in ("harness", "methods", "tasks", "results")
        for path in (ROOT / package).rglob("*.py")
        # The second one has the text of a reader that runs without this package, and
        # copies every tensor.
        if path.name not in ("tensor_files.py", "hugging_face_form.py")
    ]

    assert not [p for p in sources if READERS.search(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("damage", [lambda b: b[:-4], lambda b: b[:4], lambda b: b"no"])
@pytest.mark.parametrize(
    "read", [read_tensors, read_header, lambda p: read_tensor(p, "a")]
)
def test_a_file_that_is_cut_off_is_named(tmp_path, damage, read):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(8)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BenchError, match=r"a\.safetensors is missing, cut off"):
        read(path)

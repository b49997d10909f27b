"""Blocks on several devices: who gets which, and the same numbers as on one."""

import copy
from itertools import combinations_with_replacement

import pytest
import tiny_llm
import torch
from fake_device import FakeDevices
from hypothesis import given
from hypothesis import strategies as st

from harness.core import BenchError, Context, Unsupported
from harness.registry import find
from harness.toolkit import devices, spread


@given(
    blocks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    rest=st.integers(0, 12),
    count=st.integers(1, 3),
)
def test_the_fullest_device_holds_as_little_as_any_order_of_blocks_allows(
    blocks, rest, count
):
    def fullest(places):
        held = [rest] + [0] * (count - 1)
        for place, size in zip(places, blocks, strict=True):
            held[place] += size
        return max(held)

    found = spread.shares(blocks, rest, count)

    assert found == sorted(found)
    every = combinations_with_replacement(range(count), len(blocks))
    assert fullest(found) == min(map(fullest, every))


def test_tied_weights_stay_on_the_first_device_and_blocks_differ_in_size():
    model = tiny_llm.tiny("llama", num_hidden_layers=3)  # the head is the embedding
    model.net.model.layers[1].mlp.up_proj = torch.nn.Linear(24, 400)  # not uniform
    with FakeDevices(3) as fake:
        spread.spread(model.net, "model.layers", fake.devices)
        one, two, three = fake.devices

        assert model.net.lm_head.weight.device == one
        assert model.net.model.embed_tokens.weight.device == one
        assert [next(b.parameters()).device for b in model.net.model.layers] == [
            one, two, three,
        ]  # fmt: skip
        assert spread.devices_of(model.net) == {one, two, three}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_logits_with_and_without_a_cache_are_those_of_one_device(family):
    model = tiny_llm.tiny(family)
    wanted = tiny_llm.logits(model.net)
    path = "model.layers" if family == "llama" else "transformer.h"
    with FakeDevices(2) as fake:
        spread.spread(model.net, path, fake.devices)
        net = copy.deepcopy(model.net)  # a copy keeps its places
        ids = torch.arange(16).mul(7).remainder(256)[None].to(fake.devices[0])
        with torch.inference_mode():
            whole = net(input_ids=ids, use_cache=False).logits.cpu()
            first = net(input_ids=ids[:, :10], use_cache=True)
            kept = first.past_key_values
            rest = net(input_ids=ids[:, 10:], use_cache=True, past_key_values=kept)
            parts = torch.cat([first.logits, rest.logits], 1).cpu()

    assert torch.allclose(whole, wanted, atol=1e-5)
    assert torch.allclose(parts, wanted, atol=1e-5)


def test_slicegpt_says_that_it_needs_one_device():
    model = tiny_llm.tiny("llama")
    with FakeDevices(2) as fake:
        spread.spread(model.net, "model.layers", fake.devices)
        ctx = Context(model=model, seed=0, device=fake.devices[0])
        with pytest.raises(Unsupported, match="on one device: write `gpus: 1`"):
            find("method", "slicegpt").build({}).compress(None, 0.5, ctx)


def test_more_devices_than_there_are_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setenv(devices.ONLY, "cpu")

    with pytest.raises(BenchError, match=r"`gpus: 4` was asked for.* sees 0 of them"):
        devices.several(4)

"""Block influence against the hidden states that the network itself returns."""

import pytest
import torch
from tiny_llm import tiny

from harness.core import NotFinite
from methods._kernels.influence import block_influence

# Three batches: the stream takes about 1,024 tokens at a time.
TOKENS = torch.arange(70 * 32).mul(7).remainder(256).view(70, 32)


def test_influence_is_one_minus_the_mean_cosine_of_a_block():
    model = tiny("llama")
    seen = []
    for block in model.net.model.layers:
        block.register_forward_hook(
            lambda _, args, kwargs, out: seen.append((args[0], out)), with_kwargs=True
        )
    with torch.inference_mode():
        model.net(TOKENS, use_cache=False)
    want = [
        1 - torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=-1).mean()
        for x, y in seen
    ]
    for block in model.net.model.layers:
        block._forward_hooks.clear()
        block._forward_hooks_with_kwargs.clear()

    found = block_influence(model, TOKENS)

    assert found.dtype == torch.float64
    assert found.shape == (3,)
    torch.testing.assert_close(found, torch.stack(want), rtol=1e-4, atol=1e-9)


def test_a_block_whose_outputs_are_not_finite_is_named():
    model = tiny("llama")
    with torch.no_grad():
        model.net.model.layers[1].mlp.down_proj.weight[0, 0] = torch.inf

    with pytest.raises(NotFinite, match=r"behind model\.layers\.1 are not finite"):
        block_influence(model, TOKENS[:2])

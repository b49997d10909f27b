import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_llm import context, tiny
from torch import nn

from harness.core import Unsupported
from methods._kernels import masks


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=30, unique=True),
    st.integers(0, 99),
)
def test_the_lowest_scores_are_dropped_rounded_up_to_whole_weights(numbers, percent):
    scores = torch.tensor(numbers, dtype=torch.float64)

    kept = masks.keep_largest({"w": scores}, percent / 100, "layer")["w"]

    dropped = -(-percent * len(numbers) // 100)
    lowest = set(sorted(numbers)[:dropped])
    assert {n for n, k in zip(numbers, kept.tolist(), strict=True) if not k} == lowest


def test_global_and_layer_scope_rank_differently():
    scores = {
        "a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "b": torch.tensor([5.0, 6.0]),
    }

    together = masks.keep_largest(scores, 0.5, "global")
    alone = masks.keep_largest(scores, 0.5, "layer")

    assert together["a"].tolist() == [[False, False], [False, True]]
    assert together["b"].tolist() == [True, True]
    assert alone["a"].tolist() == [[False, False], [True, True]]
    assert alone["b"].tolist() == [False, True]


def test_a_layer_without_weights_is_refused_by_name():
    kept = {"a": torch.tensor([True]), "b": torch.tensor([False, False])}

    with pytest.raises(Unsupported, match=r"0\.9 zeroes every weight of layer b"):
        masks.refuse_empty(kept, 0.9)
    masks.refuse_empty({"a": torch.tensor([False, True])}, 0.9)


def test_dropped_weights_become_plus_zero_whatever_they_were():
    net = nn.Linear(4, 1)
    net.weight.data = torch.tensor([[torch.inf, -1.0, torch.nan, 2.0]])

    masks.apply(net, {"": torch.tensor([[False, False, False, True]])})

    assert net.weight.tolist() == [[0.0, 0.0, 0.0, 2.0]]
    assert not torch.signbit(net.weight).any()


def test_prunable_are_the_matrices_of_blocks_each_once():
    model = tiny("gpt2")

    names = [name for name, _ in masks.prunable(model, model.net)]

    parts = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert sorted(names) == sorted(
        f"transformer.h.{block}.{part}" for block in range(3) for part in parts
    )


def test_a_shared_matrix_is_pruned_once_and_embeddings_never():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(3, 4)
            self.one = nn.Linear(4, 3, bias=False)
            self.two = nn.Linear(4, 3, bias=False)
            self.two.weight = self.one.weight
            self.norm = nn.LayerNorm(4)

    class Anything:
        def with_net(self, net: nn.Module) -> "Anything":
            return self

        def modules(self):
            return [(n, m) for n, m in net.named_modules() if n]

    net = Shared()

    assert [name for name, _ in masks.prunable(Anything(), net)] == ["one"]


def test_the_recorded_share_counts_zeros_of_the_masked_layers(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)
    net = ctx.dense()
    name = "model.layers.0.mlp.up_proj"
    weight = net.get_submodule(name).weight
    weight.data[:10] = 0

    masks.record_zeros(net, [name], ctx)

    blocks = sum(
        m.weight.numel()
        for n, m in model.net.named_modules()
        if isinstance(m, nn.Linear) and ".layers." in n
    )
    [recorded] = [m for m in ctx.recorded if m.metric == "achieved_ratio"]
    assert recorded.value == pytest.approx(10 * weight.shape[1] / blocks, rel=1e-12)


def test_training_leaves_masked_weights_at_zero():
    net = nn.Linear(3, 2)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    goal = masks.Masked(name="any", masks={"": mask})

    goal.after_step(net)

    assert torch.equal(net.weight != 0, mask)

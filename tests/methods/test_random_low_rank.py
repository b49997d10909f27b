import pytest
import torch
from tiny_llm import context, tiny

from harness.registry import find
from methods._kernels.low_rank.factors import linears, matrix
from methods._kernels.low_rank.ranks import rank_for


def test_each_matrix_is_projected_onto_random_orthonormal_directions():
    model = tiny("llama")
    net = (
        find("method", "random_low_rank").build({}).compress(None, 0.5, context(model))
    )

    for name, module in linears(model).items():
        weight, thin = matrix(module), net.get_submodule(name)
        left, right = thin.left.weight, thin.right.weight
        assert left.shape[1] == rank_for(*weight.shape, 0.5)
        eye = torch.eye(left.shape[1])
        torch.testing.assert_close(left.T @ left, eye, rtol=0, atol=1e-5)
        # The nearest matrix with these columns: the rest is orthogonal to them.
        rest = weight - left @ right
        assert (left.T @ rest).abs().max() < 1e-5


def test_the_kept_energy_is_k_of_out_on_average():
    model = tiny("llama")
    method = find("method", "random_low_rank").build({})
    name = "model.layers.0.self_attn.q_proj"
    weight = matrix(model.net.get_submodule(name))
    shares = []
    for seed in range(60):
        ctx = context(model)
        ctx.seed = seed
        thin = method.compress(None, 0.5, ctx).get_submodule(name)
        made = thin.left.weight @ thin.right.weight
        shares.append(float(made.detach().square().sum() / weight.square().sum()))

    mean = sum(shares) / len(shares)
    spread = torch.tensor(shares).std() / len(shares) ** 0.5
    rank = rank_for(*weight.shape, 0.5)
    assert mean == pytest.approx(rank / len(weight), abs=5 * float(spread))

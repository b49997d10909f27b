import pytest
import torch
from tiny_llm import context, logits, tiny

from harness.core import BenchError, Measurement
from harness.registry import find
from methods._kernels.low_rank.factors import linears
from methods._kernels.low_rank.layers import LowRank
from methods._kernels.low_rank.lora import recover
from methods._kernels.low_rank.refit import refit, refit_released


def compressed(ctx, **options):
    method = find("method", "svd_llm").build(options)
    return method.compress(method.fit(ctx.model, ctx), 0.5, ctx).eval()


def test_lora_recovery_lowers_the_loss_and_keeps_the_size(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    before = compressed(ctx)
    recipe = {"epochs": 2, "learning_rate": 3e-3, "rank": 2, "warmup": 1}
    after = compressed(ctx, lora=recipe)

    losses = [m.value for m in ctx.recorded if m.metric == "recovery_loss"]
    assert [m.step for m in ctx.recorded] == [0, 1, 2, 3]
    assert losses[-1] < losses[0]
    assert all(isinstance(m, Measurement) for m in ctx.recorded)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (before, after)]
    assert sizes[0] == sizes[1]
    assert all(type(after.get_submodule(n)) is LowRank for n in linears(ctx.model))
    assert not torch.equal(logits(before), logits(after))


def test_adapters_that_learn_nothing_change_nothing(tmp_path):
    from methods._kernels.low_rank.lora import Lora

    ctx = context(tiny("llama"), tmp_path)
    net = compressed(ctx)
    same = recover(compressed(ctx), Lora(learning_rate=0.0, epochs=1), ctx)
    assert torch.equal(logits(net), logits(same))


def test_cholesky_and_eigh_agree_where_both_are_exact(tmp_path):
    ctx = context(tiny("llama"), tmp_path, samples=24)
    one, two = compressed(ctx), compressed(ctx, whitening="cholesky")
    torch.testing.assert_close(logits(one), logits(two), rtol=1e-3, atol=1e-3)


def test_an_order_that_is_none_is_refused():
    with pytest.raises(BenchError, match="is not left and right"):
        find("method", "svd_llm").build({"lora": {"order": ["left", "left"]}})


def first_inputs(ctx, windows):
    """The inputs of the first block's query; no compressed block comes before it."""
    seen = []
    query = ctx.model.net.model.layers[0].self_attn.q_proj
    handle = query.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        ctx.model.net(input_ids=ctx.calibration().tokens[:windows], use_cache=False)
    handle.remove()
    return seen[0].flatten(0, 1), query.weight.detach()


@pytest.mark.parametrize(("samples", "windows"), [(16, 16), (3, 3), (0, 24)])
def test_the_update_reads_the_first_windows_and_no_other(tmp_path, samples, windows):
    # Second implementation: least squares on the inputs of these windows alone.
    ctx = context(tiny("llama"), tmp_path, samples=24)
    net = compressed(ctx, update=True, update_samples=samples)
    x, dense = first_inputs(ctx, windows)
    thin = net.model.layers[0].self_attn.q_proj
    inputs = x.double() @ thin.right.weight.T.double()
    solution = torch.linalg.lstsq(inputs, x.double() @ dense.T.double()).solution
    torch.testing.assert_close(
        thin.left.weight.double(), solution.T, rtol=1e-3, atol=1e-4
    )


def test_sixteen_windows_are_read_unless_told_as_in_the_released_code():
    assert find("method", "svd_llm").build({}).update_samples == 16
    with pytest.raises(BenchError, match="update_samples -1 is below 0"):
        find("method", "svd_llm").build({"update_samples": -1})


def test_the_released_solver_ignores_directions_that_the_exact_one_fits():
    # Two directions, the second 1e5 times weaker than the first. Float32 least squares
    # on a CPU cuts at eps * tokens, 1.2e-7 * 4,096 = 5e-4 of the largest: it fits the
    # first alone, while float64 reproduces the weight.
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 2, generator=rng) * torch.tensor([1.0, 1e-5])
    weight, start = torch.tensor([[2.0, 3.0], [5.0, 7.0]]), torch.eye(2)
    exact = refit(weight, start, x.T.double() @ x.double())
    released = refit_released(weight, start, start, x)
    torch.testing.assert_close(exact, weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(released[:, 0], weight[:, 0], rtol=1e-3, atol=1e-3)
    assert float(released[:, 1].abs().max()) < 0.01


def test_the_released_solver_and_the_exact_one_agree_on_well_scaled_inputs():
    rng = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 6, generator=rng) for n in (200, 5))
    left, right = (torch.randn(s, generator=rng) for s in ((5, 3), (3, 6)))
    torch.testing.assert_close(
        refit_released(weight, left, right, x),
        refit(weight, right, x.T.double() @ x.double()),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_released_update_runs_on_a_whole_network(tmp_path):
    ctx = context(tiny("llama"), tmp_path, samples=24)
    released = compressed(ctx, update=True, update_solver="released")
    exact, plain = compressed(ctx, update=True), compressed(ctx)
    # Random weights and tokens leave no weak directions, so both solvers agree.
    torch.testing.assert_close(logits(released), logits(exact), rtol=0.05, atol=0.05)
    assert not torch.allclose(logits(exact), logits(plain), rtol=0.05, atol=0.05)


def test_recovery_keeps_the_dtype_and_learns_in_float16(tmp_path):
    ctx = context(tiny("llama", dtype=torch.float16), tmp_path)
    recipe = {"epochs": 2, "learning_rate": 3e-3, "rank": 2, "warmup": 1}
    net = compressed(ctx, lora=recipe)
    losses = [m.value for m in ctx.recorded if m.metric == "recovery_loss"]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in net.parameters()} == {torch.float16}

import pytest
import torch
from tiny_llm import context, logits, tiny

from harness.core import BenchError
from harness.registry import find
from methods._kernels.low_rank.curvature import likelihood
from methods._kernels.low_rank.factors import linears, matrix


def fit_and_compress(ctx, name, ratio, **options):
    method = find("method", name).build(options)
    return method.compress(method.fit(ctx.model, ctx), ratio, ctx).eval()


def by_cholesky(ctx, names, ratio, damping):
    """The equations of the docstring, with autograd, Cholesky and a full SVD."""
    net, tokens = ctx.dense().requires_grad_(False), ctx.calibration().tokens
    seen, rows = {}, {name: ([], []) for name in names}
    for name in names:
        net.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: seen.__setitem__(name, (args[0], out))
        )
    for window in tokens:
        embedded = net.get_input_embeddings()(window[None]).requires_grad_(True)
        loss = likelihood(net(inputs_embeds=embedded).logits, window[None])
        gradients = torch.autograd.grad(loss, [seen[name][1] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            rows[name][0].append(seen[name][0][0].detach().double())
            rows[name][1].append(gradient[0].double())
    found = {}
    for name in names:
        roots = []
        for parts in rows[name]:
            x = torch.cat(parts)
            moment = x.T @ x / len(x)
            moment += damping * moment.diagonal().mean() * torch.eye(len(moment))
            roots.append(torch.linalg.cholesky(moment))
        inputs, outputs = roots
        weight = matrix(linears(ctx.model)[name]).double()
        out, inner = weight.shape
        rank = int((1 - ratio) * out * inner / (out + inner) + 1e-9)
        u, sigma, v = torch.linalg.svd(outputs.T @ weight @ inputs)
        middle = (u[:, :rank] * sigma[:rank]) @ v[:rank]
        found[name] = torch.linalg.inv(outputs.T) @ middle @ torch.linalg.inv(inputs)
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_matrix_agrees_with_a_second_implementation(family, tmp_path):
    # The block has matrices with more outputs than inputs, and with fewer.
    ctx = context(tiny(family), tmp_path)
    names = [name for name in linears(ctx.model) if ".1." in name]

    net = fit_and_compress(ctx, "obd_llm", 0.5)

    for name, expected in by_cholesky(ctx, names, 0.5, 0.1).items():
        thin = net.get_submodule(name)
        found = (thin.left.weight @ thin.right.weight).double()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_with_the_models_labels_and_undamped_it_is_water_filling_without_the_rest(
    tmp_path,
):
    ctx = context(tiny("llama"), tmp_path)
    plain = {"join": "none", "spend": "uniform", "pivot": False}

    one = fit_and_compress(ctx, "obd_llm", 0.4, labels="model", damping=0.0)
    two = fit_and_compress(ctx, "water_filling", 0.4, **plain)

    assert torch.equal(logits(one), logits(two))


def test_it_has_the_smallest_error_of_its_rank_in_its_own_norm(tmp_path):
    # Against whitening by inputs alone, which has the same ranks.
    ctx = context(tiny("llama"), tmp_path)
    method = find("method", "obd_llm").build({"damping": 0.0})
    fitted = method.fit(ctx.model, ctx)
    ours = method.compress(fitted, 0.5, ctx)
    theirs = fit_and_compress(ctx, "svd_llm", 0.5)
    names = [n for n in linears(ctx.model) if n.endswith("o_proj")]

    gradients = by_gradient(ctx, names)
    for name in names:
        gram, errors = ctx.calibration().gram(name).double(), []
        for net in (ours, theirs):
            thin = net.get_submodule(name)
            gap = (
                matrix(linears(ctx.model)[name])
                - (thin.left.weight @ thin.right.weight).detach()
            ).double()
            errors.append(float(torch.trace(gradients[name] @ gap @ gram @ gap.T)))
        assert errors[0] < errors[1]
        group = next(g for g in fitted if g.names == (name,))
        rank = ours.get_submodule(name).right.weight.shape[0]
        assert errors[0] == pytest.approx(fitted[group].error(rank) ** 2, rel=1e-3)


def by_gradient(ctx, names):
    """The mean of ``g g^T`` of each matrix over the calibration text."""
    net, seen = ctx.dense().requires_grad_(False), {}
    sums = dict.fromkeys(names, 0.0)
    for name in names:
        net.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: seen.__setitem__(name, out)
        )
    tokens = ctx.calibration().tokens
    for window in tokens:
        embedded = net.get_input_embeddings()(window[None]).requires_grad_(True)
        loss = likelihood(net(inputs_embeds=embedded).logits, window[None])
        found = torch.autograd.grad(loss, [seen[n] for n in names])
        for name, gradient in zip(names, found, strict=True):
            rows = gradient[0].double()
            sums[name] = sums[name] + rows.T @ rows / tokens.numel()
    return sums


@pytest.mark.parametrize("options", [{"damping": -0.1}, {"samples": -1}])
def test_options_below_zero_are_refused(options):
    with pytest.raises(BenchError, match="is below 0"):
        find("method", "obd_llm").build(options)

"""Experts as linear layers: equal outputs, the way back, and what statistics see."""

import copy

import pytest
import torch
from families import FAMILIES, MIXTURES, configuration, tiny, with_letters
from transformers import AutoModelForCausalLM

from harness.toolkit import calibration, experts
from harness.toolkit.roles import LINEARS

FAST = ("mixtral", "gpt_oss", "llama4_text", "deepseek_v2")
IDS = torch.arange(24).mul(7).remainder(128)[None]


def plain(family, seed=0, **changes):
    """A network of transformers as it is, with weights that are all different."""
    torch.manual_seed(seed)
    net = AutoModelForCausalLM.from_config(
        configuration(family, FAMILIES[family] | changes)
    )
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.15)
    return net.eval()


def logits(net):
    with torch.inference_mode():
        return net(input_ids=IDS, use_cache=False).logits


def some(families):
    return [
        pytest.param(f, marks=() if f in FAST else pytest.mark.slow) for f in families
    ]


@pytest.mark.parametrize("family", some(MIXTURES))
def test_split_experts_compute_what_transformers_computes(family):
    net = plain(family)
    wanted, state = logits(net), copy.deepcopy(net.state_dict())

    found = [m for m in experts.split(net).modules() if isinstance(m, experts.Experts)]

    assert found
    assert all(one.count == 4 for one in found)
    torch.testing.assert_close(logits(net), wanted, rtol=0, atol=1e-6)
    again = experts.fused_state(net)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_split_experts_are_views_of_one_memory():
    net = plain("mixtral")
    fused = net.model.layers[0].mlp.experts.gate_up_proj
    place = fused.untyped_storage().data_ptr()

    experts.split(net)

    for number in range(4):
        one = net.get_submodule(f"model.layers.0.mlp.experts.{number}")
        for part in (one.gate_proj, one.up_proj):
            assert part.weight.untyped_storage().data_ptr() == place
    copied = copy.deepcopy(net).model.layers[0].mlp.experts
    size = copied.get_submodule("2.up_proj").weight.untyped_storage().nbytes()
    assert size == 40 * 32 * 4  # a copy holds its own part alone


def test_gate_and_up_of_gpt_oss_are_every_other_row_and_have_biases():
    # Columns 0, 2, 4 ... of its fused matrix are the gate, columns 1, 3, 5 ... the up
    # projection; both are stored transposed.
    net = plain("gpt_oss")
    fused = net.model.layers[1].mlp.experts
    matrix, bias = fused.gate_up_proj.clone(), fused.gate_up_proj_bias.clone()

    experts.split(net)

    one = net.get_submodule("model.layers.1.mlp.experts.3")
    assert torch.equal(one.gate_proj.weight, matrix[3, :, 0::2].T)
    assert torch.equal(one.up_proj.weight, matrix[3, :, 1::2].T)
    assert torch.equal(one.up_proj.bias, bias[3, 1::2])


def routing(module, hidden, index):
    """Run experts on tokens that are given by hand; weights of one."""
    weights = torch.ones(index.shape)
    with torch.no_grad():
        return module(hidden, index, weights)


def test_an_expert_below_the_floor_also_sees_the_first_tokens_of_others():
    # 100 tokens; expert 0 gets all of them, expert 1 the tokens 3 and 50, expert 2
    # those from 60 on, expert 3 none. The floor is 40 (its inputs have 32 and 40
    # channels): expert 1 sees also the first 38 others, expert 3 the first 40.
    net = experts.split(plain("mixtral", num_experts_per_tok=2))
    module = net.model.layers[0].mlp.experts
    second = torch.full((100,), 4)  # no expert: as a place that nobody fills
    second[[3, 50]], second[60:] = 1, 2
    index = torch.stack([torch.zeros(100).long(), second], 1)
    hidden = torch.randn(100, 32)
    seen = {n: [] for n in range(4)}
    for number, into in seen.items():
        gate = module.get_submodule(f"{number}.gate_proj")
        gate.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0]))

    with experts.completed(module) as counts:
        for part in (slice(0, 50), slice(50, 100)):  # two batches
            routing(module, hidden[part], index[part])

    tokens = [torch.cat(seen[n]) for n in range(4)]
    assert {p: tuple(c) for p, c in counts.items()} == {
        ".0": (100, 40), ".1": (2, 40), ".2": (40, 40), ".3": (0, 40),
    }  # fmt: skip
    assert torch.equal(tokens[0], hidden)
    assert torch.equal(tokens[2], hidden[60:])
    assert torch.equal(tokens[3], hidden[:40])
    others = [n for n in range(100) if n not in (3, 50)][:38]
    assert torch.equal(tokens[1], hidden[[3, 50, *others]])


def test_the_statistics_of_an_expert_are_those_of_its_tokens(tmp_path):
    # A second implementation: the router's choice, token by token, in float64.
    model = with_letters(tiny("mixtral"))
    block = model.net.model.layers[0].mlp
    inputs = {n: [] for n in range(4)}

    def choose(_, args, chosen):
        rows = args[0].reshape(-1, 32)
        for row, numbers in zip(rows, chosen[2].tolist(), strict=True):
            for number in numbers:
                inputs[number].append(row.double())

    spec = calibration.CalibrationSpec(samples=12, length=32)
    calibration.build(model, spec, tmp_path)
    found = calibration.open(tmp_path)
    block.gate.register_forward_hook(choose)
    with torch.no_grad():
        model.net(input_ids=found.tokens, use_cache=False)

    assert sum(one.tokens for one in found.routed.values()) == 2 * 2 * 12 * 32
    for number, rows in inputs.items():
        name = f"model.layers.0.mlp.experts.{number}"
        assert found.routed[name] == (len(rows), 40)
        assert len(rows) >= 40, "the case needs experts above the floor"
        mean = sum(torch.outer(row, row) for row in rows) / len(rows)
        for part in ("gate_proj", "up_proj"):
            gram = found.gram(f"{name}.{part}").double()
            torch.testing.assert_close(gram, mean, rtol=1e-5, atol=1e-5)
        assert found.site_of(f"{name}.up_proj") == f"{name}.gate_proj"


def test_an_expert_without_tokens_has_finite_statistics(tmp_path):
    model = with_letters(tiny("deepseek_v3"))
    gate = model.net.model.layers[1].mlp.gate
    gate.e_score_correction_bias[2] = -1e9  # this expert is never chosen
    spec = calibration.CalibrationSpec(samples=12, length=32)
    calibration.build(model, spec, tmp_path)
    found = calibration.open(tmp_path)

    assert found.routed["model.layers.1.mlp.experts.2"] == (0, 32)
    for name, _ in model.modules(*LINEARS):
        gram = found.gram(name)
        assert gram.isfinite().all()
        assert gram.diagonal().sum() > 0

import families
import pytest
import torch
from families import with_letters
from tiny_llm import context, logits, tiny
from transformers import AutoModelForCausalLM
from transformers.models.gemma import GemmaConfig

from harness.core import BenchError, Unsupported
from harness.models import _language
from harness.registry import find
from harness.toolkit.blockwise import stream
from methods.slicegpt import directions

FAMILIES = ("llama", "mistral", "qwen2", "opt")


def build(**options):
    return find("method", "slicegpt").build(options)


def sliced(ctx, ratio, **options):
    return build(**options).compress(None, ratio, ctx).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rotated_network_computes_the_same_function(family, tmp_path, monkeypatch):
    # All directions stay, so that only the rotation is left.
    monkeypatch.setattr("methods.slicegpt.kept", lambda count, ratio: count)
    ctx = context(tiny(family), tmp_path)

    net = sliced(ctx, 0.1)

    torch.testing.assert_close(logits(net), logits(ctx.model.net), rtol=1e-3, atol=1e-4)


def by_projection(model, tokens, width, ids):
    """The dense blocks with every hidden state projected onto its directions.

    Second implementation, in the coordinates of the embeddings: nothing is folded,
    rotated or cut. A projected state has the same mean square as a sliced one whose
    sum of squares is divided by the full width.
    """
    net = model.net
    two = [stream(model, tokens), stream(model, ids)]
    opt = hasattr(two[0].blocks[0], "fc1")
    for index, block in enumerate(two[0].blocks):
        first = block.self_attn_layer_norm if opt else block.input_layernorm
        second = block.final_layer_norm if opt else block.post_attention_layernorm

        def mlp(x, block=block):
            return block.fc2(block.activation_fn(block.fc1(x))) if opt else block.mlp(x)

        def project(runs):
            if opt:  # its norms subtract the mean
                for run in runs:
                    run.states = [x - x.mean(-1, keepdim=True) for x in run.states]
            rows = torch.cat([x.flatten(0, 1) for x in runs[0].states]).double()
            kept = torch.linalg.svd(rows, full_matrices=False)[2][:width]
            onto = (kept.T @ kept).float()
            for run in runs:
                run.states = [x @ onto for x in run.states]

        project(two)
        for run in two:
            run.states = [
                x + block.self_attn(hidden_states=first(x), **call[index][1])[0]
                for x, call in zip(run.states, run.calls, strict=True)
            ]
        project(two)
        for run in two:
            run.states = [x + mlp(second(x)) for x in run.states]
    owner = net.model.decoder if opt else net.model
    last = owner.final_layer_norm if opt else owner.norm
    return net.lm_head(last(two[1].states[0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_slicing_equals_projecting_every_hidden_state(family, tmp_path):
    model = tiny(family)
    ctx = context(model, tmp_path)
    ids = torch.arange(16).mul(7).remainder(256)[None]

    net = sliced(ctx, 0.3)

    with torch.no_grad():
        expected = by_projection(model, ctx.calibration().tokens, 16, ids)
    torch.testing.assert_close(logits(net), expected, rtol=2e-3, atol=2e-3)


def test_the_widths_are_those_of_the_ratio_and_embeddings_and_head_stay(tmp_path):
    model = tiny("llama")
    ctx = context(model, tmp_path)

    net = sliced(ctx, 0.3)

    first, middle, last = net.model.layers
    assert first.entry.shape == (24, 16)  # of floor(0.7 * 24)
    assert middle.entry is None
    for block in (first, middle, last):
        assert block.self_attn.q_proj.weight.shape == (24, 16)
        assert block.self_attn.k_proj.weight.shape == (12, 16)
        assert block.self_attn.o_proj.weight.shape == (16, 24)
        assert block.mlp.up_proj.weight.shape == (40, 16)
        assert block.attention_shortcut.shape == (16, 16)
    assert middle.mlp.down_proj.weight.shape == (16, 40)
    assert middle.mlp_shortcut.shape == (16, 16)
    assert last.mlp.down_proj.weight.shape == (24, 40)
    assert last.mlp_shortcut.shape == (16, 24)
    assert net.lm_head.weight is net.model.embed_tokens.weight
    assert torch.equal(net.lm_head.weight, model.net.lm_head.weight)
    assert [(m.metric, m.value) for m in ctx.recorded] == [
        ("achieved_ratio", pytest.approx(1 / 3))
    ]


def test_the_directions_are_the_strongest_ones_of_the_hidden_states():
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 6, generator=rng, dtype=torch.float64)

    found = directions([rows[:20].view(2, 10, 6), rows[20:].view(3, 10, 6)], 3)

    right = torch.linalg.svd(rows)[2][:3]
    torch.testing.assert_close(found @ found.T, right.T @ right)
    assert torch.allclose(found.T @ found, torch.eye(3, dtype=torch.float64))


def test_the_width_is_rounded_down_to_a_multiple(tmp_path):
    net = sliced(context(tiny("llama"), tmp_path), 0.1, multiple=8)

    assert net.model.layers[0].attention_shortcut.shape == (16, 16)  # of 21


def test_the_released_code_subtracts_the_mean_of_rms_norm_models_too(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    layers = context(tiny("opt"), tmp_path / "opt")

    assert not torch.equal(
        logits(sliced(ctx, 0.2)), logits(sliced(ctx, 0.2, centre="always"))
    )
    assert torch.equal(
        logits(sliced(layers, 0.2)), logits(sliced(layers, 0.2, centre="always"))
    )


def gemma():
    small = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    net = AutoModelForCausalLM.from_config(
        GemmaConfig(vocab_size=256, **small, **attention)
    )
    model = _language.wrap("tiny-gemma", net, tokenizer=None)
    fields = {f: getattr(model, f) for f in model.__slots__}
    fields["encode"] = lambda text: torch.tensor(list(text.encode()))
    return type(model)(**fields)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: tiny("gpt2"), "not built of plain linear layers"),
        (lambda: with_letters(families.tiny("bloom")), "attention of a known name"),
        (lambda: with_letters(families.tiny("olmo")), "have no weights"),
        # Its norms multiply by one plus their weight.
        (gemma, "cannot be rotated"),
        # Its norms stand behind the attention and the MLP.
        (lambda: tiny("opt", do_layer_norm_before=False), "cannot be rotated"),
    ],
    ids=["fused", "other names", "no weights", "other norms", "norms behind"],
)
def test_blocks_of_another_kind_are_refused_with_a_reason(model, reason, tmp_path):
    ctx = context(model(), tmp_path)

    with pytest.raises(Unsupported, match=reason):
        sliced(ctx, 0.2)


def test_a_ratio_that_leaves_no_direction_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="leaves no direction of 24"):
        sliced(context(tiny("llama"), tmp_path), 0.97)


def test_a_multiple_below_one_is_refused():
    with pytest.raises(BenchError, match="multiple 0 is below 1"):
        build(multiple=0)

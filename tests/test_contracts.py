"""What every method owes, checked over the registry: a new file is tested by being."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_llm
import torch

from harness.core import Context, Unsupported
from harness.registry import discover, facts, find, unmet
from harness.running.artifacts import seed_everything
from harness.toolkit import model_size, saved_model
from harness.toolkit.recipe import Recipe
from harness.toolkit.sequences import Pairs, ParallelText, Vocabulary

RATIOS = (0.2, 0.5)
# A chain is nothing without members; all others stand with their defaults.
OPTIONS = {
    "chain": {"chain": ["svd", {"name": "round_to_nearest", "bits": 8}]},
    # The language models here have three blocks.
    "llm_pruner": {"keep_first": 0, "keep_last": 0},
}
# What "never more" is about, by what a method's ratio is a share of.
QUANTITY = {"zeros": "nonzero", "macs": "macs", "bits": "bytes"}
# Codes of whole bits need scales beside them, and these layers are tiny.
SCALES = {"bits": 0.15}
# Whole blocks leave, and the language models here have three.
COARSE = {"shortgpt": 0.1}
# Experts are not alike, so that a block has no one width that could be reduced.
WITH_EXPERTS = {"svd_llm", "gptq", "wanda"}  # tried in the fast tests
NO_EXPERTS = {"a3", "flap", "llm_pruner", "modegpt", "random_structured", "slicegpt"}


# A first exit must be cheap beside the rest, or leaving early saves nothing.
MODELS: dict[str, dict[str, Any]] = {
    "digits_convnet": {"widths": [8, 16, 32, 64]},
    "mlp": {},
}


def language(folder: Path, dtype: str = "float32") -> Context:
    model = tiny_llm.tiny("llama", dtype=getattr(torch, dtype))
    return tiny_llm.context(model, folder)


def mixture(folder: Path) -> Context:
    return tiny_llm.context(tiny_llm.tiny("qwen3_moe"), folder)


def images(folder: Path, family: str = "digits_convnet") -> Context:
    del folder
    data = find("task", "digits").build({"limit": 200}).data()
    model = find("model", family).build(MODELS[family]).build(data.shape, 0)
    return Context(model=model, seed=0, device=torch.device("cpu"), data=data)


def sentences(folder: Path) -> Context:
    del folder
    rng = torch.Generator().manual_seed(0)
    words = Vocabulary(words=tuple("abcdefghijkl"))

    def some(count: int) -> Pairs:
        lengths = torch.randint(2, 6, (count,), generator=rng)
        source = [torch.randint(4, 12, (int(n),), generator=rng) for n in lengths]
        return Pairs(source=source, target=[s.flip(0) for s in source])

    data = ParallelText(source=words, target=words, train=some(32), dev=some(8))
    model = find("model", "gru_seq2seq").build(GRU).build(data.shape, 0)
    return Context(model=model, seed=0, device=torch.device("cpu"), data=data)


# How each model is built again from its file.
GRU = {"layers": 2, "units": 12, "recipe": {"epochs": 2, "optimizer": "adam"}}
ORIGINS = {
    "convnet": {"model": "digits_convnet", "options": MODELS["digits_convnet"]},
    "mlp": {"model": "mlp", "options": {}},
    "seq2seq": {"model": "gru_seq2seq", "options": GRU},
}
KINDS: dict[str, Callable[[Path], Context]] = {
    "causal_lm": language,
    "causal_lm bfloat16": partial(language, dtype="bfloat16"),
    "causal_lm float16": partial(language, dtype="float16"),
    "causal_lm mixture": mixture,
    "convnet": images,
    "mlp": partial(images, family="mlp"),
    "seq2seq": sentences,
}
METHODS = list(discover("method"))


def build(name: str):
    """The method with its defaults; trainings last one epoch, for contracts alone."""
    plugin = find("method", name)
    method = plugin.build(OPTIONS.get(name, {}))
    short = {
        field: dataclasses.replace(recipe, epochs=1)
        for field in plugin.cls.__dataclass_fields__
        if isinstance(recipe := getattr(method, field), Recipe)
    }
    return plugin, dataclasses.replace(method, **short)


def cases() -> list[tuple[str, str]]:
    """Each method with a model of each kind that it treats."""
    found = []
    for name in discover("method"):
        declared = facts(*build(name))
        classifier = "mlp" if "linears" in declared["needs"] else "convnet"
        for kind in sorted(declared["kinds"]):
            wanted = classifier if kind == "classifier" else kind
            found += [(name, k) for k in KINDS if k.split()[0] == wanted]
    return [(n, k) for n, k in found if k != "causal_lm mixture" or n not in NO_EXPERTS]


def marked() -> list[Any]:
    """The cases; most of those with a mixture of experts are slow."""
    return [
        pytest.param(
            name,
            kind,
            marks=pytest.mark.slow
            if kind == "causal_lm mixture" and name not in WITH_EXPERTS
            else (),
        )
        for name, kind in cases()
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each method fitted once and compressed at each ratio, as a bundle does it."""
    known: dict[tuple[str, str], Any] = {}
    fitted: dict[tuple[str, str], Any] = {}
    contexts: dict[str, Context] = {}

    def makes(name: str, kind: str):
        if kind not in contexts:
            contexts[kind] = KINDS[kind](tmp_path_factory.mktemp(kind))
        if (name, kind) not in known:
            try:
                fitted[name, kind] = fit(name, contexts[kind])
                known[name, kind] = compress(name, contexts[kind], fitted[name, kind])
            except Exception as why:  # each test of this pair fails with it, at once
                known[name, kind] = why
        found = known[name, kind]
        if isinstance(found, Exception):
            raise found
        return found

    makes.fitted = fitted
    return makes


def fit(name: str, ctx: Context):
    """What the method fits; nothing where it has no ``fit``."""
    _, method = build(name)
    seed_everything(0, "fit")
    with unchanged(ctx.model.net):
        return method.fit(ctx.model, ctx) if hasattr(method, "fit") else None


@contextmanager
def unchanged(net: torch.nn.Module):
    """Check that a network has the weights and the hooks that it had before."""
    before, hooks = copy.deepcopy(net.state_dict()), hooks_of(net)
    yield
    after = net.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items()), "the model changed"
    assert hooks_of(net) == hooks, "hooks stay on the model"


def compress(name: str, ctx: Context, fitted: Any):
    """Networks by ratio; the context's network is checked to be as it was."""
    plugin, method = build(name)
    declared = facts(plugin, method)
    dtype = next(ctx.model.net.parameters()).dtype
    written = str(dtype).removeprefix("torch.")
    fixed = method.ratios(written) if hasattr(method, "ratios") else None
    ratios = (0.0,) if declared["ratio_of"] == "none" else (0.0, *(fixed or RATIOS))
    given = copy.deepcopy(tensors(fitted))
    nets, notes = {}, {}
    for ratio in (*ratios, ratios[-1]):  # the last one twice: same seed, same network
        seed_everything(0, f"compress {ratio!r}")
        ctx.recorded.clear()
        with unchanged(ctx.model.net):
            net = method.compress(fitted, ratio, ctx).eval()
        nets.setdefault(ratio, []).append(net)
        notes[ratio] = list(ctx.recorded)
    found = tensors(fitted)
    assert found.keys() == given.keys(), "compress changed what fit returned"
    same = [torch.equal(found[k], v) for k, v in given.items()]
    assert all(same), "compress changed what fit returned"
    kinds = {p.dtype for r in nets for p in nets[r][0].parameters()}
    assert kinds == {dtype}, "the network has another dtype"
    return ctx, declared, nets, notes


def tensors(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor and number in what a method fitted, by its place."""
    if isinstance(value, torch.nn.Module):
        return tensors(dict(value.state_dict()), path)
    if isinstance(value, torch.Tensor):
        return {path: value}
    if isinstance(value, int | float):
        return {path: torch.tensor(value, dtype=torch.float64)}
    if dataclasses.is_dataclass(value):
        items = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        items = []
    found: dict[str, torch.Tensor] = {}
    for key, one in items:
        found |= tensors(one, f"{path}/{key}")
    return found


def hooks_of(net: torch.nn.Module) -> int:
    """The number of hooks on all modules and parameters of a network."""
    count = sum(len(p._post_accumulate_grad_hooks or ()) for p in net.parameters())
    for module in net.modules():
        count += len(module._forward_hooks) + len(module._forward_pre_hooks)
    return count


def outputs(net, ctx: Context) -> torch.Tensor:
    with torch.inference_mode():
        out = net(**ctx.model.example())
    return getattr(out, "logits", out)


@pytest.mark.parametrize(("name", "kind"), marked())
def test_ratio_zero_changes_no_output(made, name, kind):
    ctx, _, nets, _ = made(name, kind)

    assert torch.equal(outputs(nets[0.0][0], ctx), outputs(ctx.model.net, ctx))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("flap", "slicegpt") else pytest.mark.slow)
        for n in sorted(NO_EXPERTS)
    ],
)
def test_a_method_that_cannot_treat_experts_says_so(name, tmp_path):
    ctx, (_, method) = mixture(tmp_path), build(name)

    def run():
        fitted = method.fit(ctx.model, ctx) if hasattr(method, "fit") else None
        method.compress(fitted, 0.2, ctx)

    with pytest.raises(Unsupported, match="dense model"):
        run()


@pytest.mark.parametrize(("name", "kind"), marked())
def test_the_same_seed_gives_the_same_network(made, name, kind):
    _, _, nets, _ = made(name, kind)
    one, two = (net.state_dict() for net in list(nets.values())[-1])

    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(("name", "kind"), marked())
def test_the_shape_of_the_output_is_kept_and_finite(made, name, kind):
    ctx, _, nets, _ = made(name, kind)
    wanted = outputs(ctx.model.net, ctx).shape

    for net, *_ in nets.values():
        assert outputs(net, ctx).shape == wanted
        # An excluded class has the logit minus infinity; nothing else may be.
        assert not torch.isnan(outputs(net, ctx)).any()
        assert not torch.isposinf(outputs(net, ctx)).any()


@pytest.mark.parametrize("name", [n for n, kind in cases() if kind == "causal_lm"])
def test_generation_with_a_cache_equals_generation_without(made, name):
    _, _, nets, _ = made(name, "causal_lm")
    words = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    ids = torch.arange(8)[None]

    for net, *_ in nets.values():
        with torch.inference_mode():
            cached = net.generate(ids, use_cache=True, **words)
            plain = net.generate(ids, use_cache=False, **words)
        assert cached.tolist() == plain.tolist()


@pytest.mark.parametrize(("name", "kind"), marked())
def test_the_achieved_ratio_keeps_the_budget_and_stays_near_the_requested_one(
    made, name, kind
):
    ctx, declared, nets, notes = made(name, kind)
    dense = model_size.size(ctx.model)
    for ratio, (net, *_) in nets.items():
        own = [m.value for m in notes[ratio] if m.metric == "achieved_ratio"]
        sizes = (dense, model_size.size(ctx.model.with_net(net)))
        counted = model_size.achieved(declared["ratio_of"], ctx.model, net, sizes)
        found = own[-1] if own else counted
        assert found is not None, "who asks for a ratio says what was achieved"
        # One scale a row, of 2 or 4 bytes beside 24 codes, whatever the dtype.
        slack = SCALES.get(declared["ratio_of"], 0.0)
        # A router of experts has no role and stays dense.
        least = ratio * (model_size.coverage(ctx.model) or 1.0) - slack - 1e-9
        assert found >= least, f"{found} is below the budget of {ratio}"
        # Tiny layers round coarsely: one rank, one filter is a large share of them.
        coarse = declared["tolerance"] + COARSE.get(name, 0.0)
        assert found <= ratio + coarse + 0.1


@pytest.mark.parametrize(("name", "kind"), marked())
def test_a_higher_ratio_never_has_more_of_what_it_removes(made, name, kind):
    ctx, declared, nets, _ = made(name, kind)
    quantity = QUANTITY.get(declared["ratio_of"], "params")
    # A tiny matrix in bits has a longer description than the one in floats had.
    ratios = [r for r in sorted(nets) if r > 0 or quantity != "bytes"]
    sizes = [
        getattr(model_size.size(ctx.model.with_net(nets[r][0])), quantity)
        for r in ratios
    ]

    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("name", "kind"), marked())
def test_a_saved_network_reloads_to_equal_outputs(made, name, kind, tmp_path):
    ctx, _, nets, _ = made(name, kind)
    net = list(nets.values())[-1][0]
    if kind.startswith("causal_lm"):
        source = tmp_path / "source"
        ctx.model.net.config.save_pretrained(source)
        origin = {"model": str(source), "options": {}, "revision": "", "shape": None}
    else:
        origin = {**ORIGINS[kind], "revision": "", "shape": ctx.data.shape}

    saved_model.save(ctx.model.with_net(net), origin, tmp_path)
    again = saved_model.load(tmp_path)

    assert torch.equal(outputs(again.net, ctx), outputs(net, ctx))
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size == saved_model.saved_bytes(net)


@pytest.mark.parametrize(("name", "kind"), marked())
def test_a_ratio_that_is_too_high_is_refused_with_a_reason_or_kept(made, name, kind):
    ctx, declared, _, _ = made(name, kind)
    _, method = build(name)
    if declared["ratio_of"] == "none" or getattr(method, "ratios", lambda: None)():
        pytest.skip("the method fixes its ratio by itself")
    # What follows a fit is fast for a language model; the others train once more.
    ratios = (0.9, 0.99, 0.9999) if kind.startswith("causal_lm") else (0.9999,)
    refused = []
    for ratio in ratios:
        try:
            net = method.compress(made.fitted[name, kind], ratio, ctx).eval()
        except Unsupported as why:
            refused.append(str(why))
        else:
            assert outputs(net, ctx).shape == outputs(ctx.model.net, ctx).shape
    assert all(len(reason.split()) >= 4 for reason in refused), refused


# A model of each kind that a method may need, and a task that measures it.
PAIRS = {
    "smollm2-135m": "pydoc-512",
    "digits_convnet": "digits",
    "mlp": "digits",
    "vgg16": "cifar10",
    "gru_seq2seq": "hsk_gloss",
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_does_not_fit_a_model_or_a_task_is_refused_with_a_reason(name):
    plugin, method = build(name)
    declared = facts(plugin, method)
    assert plugin.summary.endswith("."), f"{name} has no sentence"
    accepted = []
    for model, task in PAIRS.items():
        family, measured = find("model", model), find("task", task)
        why = unmet(plugin, family, measured, declared)
        if family.facts["kind"] not in declared["kinds"]:
            assert why is not None
            assert f"method {name} treats a" in why
        elif (
            missing := declared["needs"]
            - family.facts["gives"]
            - measured.facts["gives"]
        ):
            assert why is not None
            assert all(word in why for word in missing)
        else:
            assert why is None
            accepted.append(family.name)
    assert accepted, f"{name} treats none of {', '.join(PAIRS)}"

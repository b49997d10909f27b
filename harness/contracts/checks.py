"""The checks; the docstring of each is the contract, and ``ADVICE`` how to keep it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from harness.contracts import samples
from harness.contracts.compressed import Compressed, require
from harness.core import Unsupported
from harness.planning.configured_plugin import unmet
from harness.registry import Plugin, find
from harness.toolkit import model_size, saved_model

# What "never more" is about, by what a method's ratio is a share of.
_QUANTITY = {"zeros": "nonzero", "macs": "macs", "bits": "bytes"}
# Codes of whole bits need scales beside them: one of 2 or 4 bytes for each row, which
# in the small layers here stands beside 24 codes.
_SCALES = {"bits": 0.15}
_ROUNDING = 0.1  # small layers round coarsely: one rank, one filter is a large share
# A model of each kind that a method may need, and a task that measures it.
_PAIRS = {
    "smollm2-135m": "pydoc-512",
    "digits_convnet": "digits",
    "mlp": "digits",
    "vgg16": "cifar10",
    "gru_seq2seq": "hsk_gloss",
}


def leaves_its_inputs_alone(made: Compressed) -> None:
    """Fit and compress run, and change neither the model nor the fit."""
    del made  # checked while the networks were made


def ratio_zero_changes_nothing(made: Compressed) -> None:
    """Ratio 0 changes no output."""
    dense, found = made.outputs(made.ctx.model.net), made.outputs(made.nets[0.0][0])
    require(torch.equal(found, dense), "the outputs differ from those of the model")


def same_seed_same_network(made: Compressed) -> None:
    """The same seed gives the same network."""
    one, two = (net.state_dict() for net in made.last)
    require(one.keys() == two.keys(), "two calls gave tensors of other names")
    differ = [key for key in one if not torch.equal(one[key], two[key])]
    require(not differ, f"two calls gave other values, first in {differ[:1]}")


def shape_is_kept(made: Compressed) -> None:
    """The shape of the output is kept, and the output is finite."""
    wanted = made.outputs(made.ctx.model.net).shape
    for ratio, (net, *_) in made.nets.items():
        found = made.outputs(net)
        require(
            found.shape == wanted,
            f"at ratio {ratio} the output has shape {tuple(found.shape)}, not "
            f"{tuple(wanted)}",
        )
        # An excluded class has the logit minus infinity; nothing else may be.
        bad = torch.isnan(found) | torch.isposinf(found)
        require(not bad.any(), f"at ratio {ratio} the output is not finite")


def cached_generation_is_equal(made: Compressed) -> None:
    """Generation with a cache equals generation without."""
    words: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    for ratio, (net, *_) in made.nets.items():
        model: Any = net
        with torch.inference_mode():
            ids = torch.arange(8)[None]
            cached = model.generate(ids, use_cache=True, **words).tolist()
            plain = model.generate(ids, use_cache=False, **words).tolist()
        require(
            cached == plain, f"at ratio {ratio} the words are {cached}, not {plain}"
        )


def budget_is_kept(made: Compressed) -> None:
    """The achieved ratio keeps the budget and stays near the requested one."""
    declared, model = made.declared, made.ctx.model
    dense = model_size.size(model)
    for ratio, (net, *_) in made.nets.items():
        own = [m.value for m in made.notes[ratio] if m.metric == "achieved_ratio"]
        sizes = (dense, model_size.size(model.with_net(net)))
        counted = model_size.achieved(declared["ratio_of"], model, net, sizes)
        found = own[-1] if own else counted
        if found is None:
            require(False, "who asks for a ratio says what was achieved")
            return
        slack = _SCALES.get(declared["ratio_of"], 0.0)
        # A router of experts has no role and stays dense.
        least = ratio * (model_size.coverage(model) or 1.0) - slack - 1e-9
        require(
            found >= least,
            f"at ratio {ratio} only {found:.4f} of the {declared['ratio_of']} left",
        )
        most = ratio + declared["tolerance"] + made.coarse + _ROUNDING
        require(
            found <= most,
            f"at ratio {ratio}, {found:.4f} of the {declared['ratio_of']} left, more "
            f"than {most:.4f}",
        )


def size_never_grows(made: Compressed) -> None:
    """A higher ratio never has more of what it removes."""
    quantity = _QUANTITY.get(made.declared["ratio_of"], "params")
    # A tiny matrix in bits has a longer description than the one in floats had.
    ratios = [r for r in sorted(made.nets) if r > 0 or quantity != "bytes"]
    model = made.ctx.model
    sizes = [
        getattr(model_size.size(model.with_net(made.nets[r][0])), quantity)
        for r in ratios
    ]
    require(
        sizes == sorted(sizes, reverse=True),
        f"{quantity} at the ratios {ratios}: {sizes}",
    )


def saved_network_is_equal(made: Compressed) -> None:
    """A saved network loads to equal outputs and has the counted size."""
    net = made.last[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        origin = samples.origin(made.sample, folder / "source")
        saved_model.save(made.ctx.model.with_net(net), origin, folder)
        again = saved_model.load(folder).net
        require(
            torch.equal(made.outputs(again), made.outputs(net)),
            "the loaded network has other outputs",
        )
        size = (folder / "model.safetensors").stat().st_size
    counted = saved_model.saved_bytes(net)
    require(size == counted, f"the file has {size:,} bytes, not {counted:,}")


def high_ratio_is_refused_or_kept(made: Compressed) -> None:
    """A ratio that is too high is refused with a reason, or kept."""
    wanted = made.outputs(made.ctx.model.net).shape
    # What follows a fit is fast for a language model; the others train once more.
    language = made.sample.startswith("causal_lm")
    for ratio in (0.9, 0.99, 0.9999) if language else (0.9999,):
        try:
            net = made.method.compress(made.fitted, ratio, made.ctx).eval()
        except Unsupported as why:
            require(
                len(str(why).split()) >= 4,
                f"ratio {ratio} is refused with the reason {str(why)!r}",
            )
        else:
            require(
                made.outputs(net).shape == wanted,
                f"at ratio {ratio} the output has another shape",
            )


def misfits_are_refused(plugin: Plugin, declared: Mapping[str, Any]) -> None:
    """A model or task that does not fit is refused with a reason.

    Args:
        plugin: The method.
        declared: Its facts.
    """
    require(plugin.summary.endswith("."), "the first line of its docstring has no end")
    accepted = []
    for name, measured in _PAIRS.items():
        family, task = find("model", name), find("task", measured)
        why = unmet(plugin, family, task, declared)
        missing = declared["needs"] - family.facts["gives"] - task.facts["gives"]
        if family.facts["kind"] not in declared["kinds"]:
            wanted = [f"method {plugin.name} treats a"]
        else:
            wanted = sorted(missing)
        if wanted:
            require(
                why is not None and all(word in why for word in wanted),
                f"{name} is accepted, or refused without naming {', '.join(wanted)}",
            )
        else:
            require(why is None, f"{name} is refused: {why}")
            accepted.append(name)
    require(bool(accepted), f"it treats none of {', '.join(_PAIRS)}")


def applies(
    check: Callable[[Compressed], None],
    sample: str,
    method: Any,
    declared: Mapping[str, Any],
) -> bool:
    """Whether a contract says anything of a method on a sample.

    Args:
        check: One of ``CHECKS``.
        sample: Name of the sample.
        method: The configured method.
        declared: Its facts.

    Returns:
        False for generation by what generates nothing (once is enough for all dtypes),
        and for other ratios of a method that fixes its own.
    """
    if check is cached_generation_is_equal:
        return sample == "causal_lm"
    if check is high_ratio_is_refused_or_kept:
        fixed = getattr(method, "ratios", lambda: None)()
        return declared["ratio_of"] != "none" and not fixed
    return True


CHECKS: tuple[Callable[[Compressed], None], ...] = (
    leaves_its_inputs_alone,
    ratio_zero_changes_nothing,
    same_seed_same_network,
    shape_is_kept,
    cached_generation_is_equal,
    budget_is_kept,
    size_never_grows,
    saved_network_is_equal,
    high_ratio_is_refused_or_kept,
)

# Check -> what to do if it fails.
ADVICE = {
    "leaves_its_inputs_alone": "change a copy from ctx.dense(), clone what compress "
    "changes of fitted, and remove hooks in a finally block",
    "ratio_zero_changes_nothing": "return ctx.dense() at ratio 0",
    "same_seed_same_network": "draw from ctx.stream(name) only",
    "shape_is_kept": "keep inputs and outputs of the network; check divisions by zero",
    "cached_generation_is_equal": "change weights and layers, not the cache or the "
    "positions",
    "budget_is_kept": "round so that at least `ratio` goes, or declare a larger "
    "tolerance; record achieved_ratio if it is not what is counted",
    "size_never_grows": "derive ranks, masks or bits from the ratio in one direction",
    "saved_network_is_equal": "use layers of harness.toolkit or torch, with all state "
    "in parameters and buffers",
    "high_ratio_is_refused_or_kept": "raise Unsupported with a sentence that says "
    "which ratio is possible",
    "misfits_are_refused": "correct needs= and kinds= in the decorator",
}

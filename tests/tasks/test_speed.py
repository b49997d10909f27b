import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_llm import context, tiny
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InvalidCxxCompiler

from harness.core import BenchError, Measurement, Model, Unsupported
from harness.planning.plan import is_exclusive
from harness.planning.trial import PluginSpec
from harness.registry import find
from harness.running import rows
from harness.toolkit import devices
from tasks import _speed
from tasks.decode import _Writer
from tasks.memory import running, weights


def build(name, **options):
    return find("task", name).build(options)


def measured(task, model):
    return {m.metric: m for m in task.evaluate(model)}


def classifier(net):
    return Model(
        name="net",
        net=net,
        kind="classifier",
        roles={},
        example=lambda: {"images": torch.zeros(1, 10)},
    )


class Clock:
    """A clock that only a fake network moves."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


class Timed(nn.Linear):
    """Takes a known time for each batch."""

    def __init__(self, clock, *seconds):
        super().__init__(10, 2)
        self.clock, self.seconds = clock, iter(seconds)
        self.rows = []

    def forward(self, images):
        self.rows.append(len(images))
        self.clock.now += next(self.seconds)
        return super().forward(images)


def test_latency_is_the_median_of_the_repeats_without_the_warmups(monkeypatch):
    net = Timed(Clock(monkeypatch), 0.2, 0.01, 0.03, 0.05)
    task = build("latency", batch=4, warmups=1, repeats=3)
    found = measured(task, classifier(net))
    assert net.rows == [4, 4, 4, 4]
    assert found["latency"].n == 3
    assert found["latency"].value == pytest.approx(30)
    # Quartiles of 10, 30, 50 are 20 and 40.
    assert found["latency_spread"].value == pytest.approx(20)
    assert found["latency"].goal == "min"


def test_the_median_and_the_quartiles_are_those_of_a_hand_worked_list():
    values = [1.0, 2.0, 3.0, 4.0, 100.0]
    middle, spread = _speed.median("rate", values, unit="tokens/s", goal="max")
    assert middle == Measurement(
        metric="rate", value=3.0, unit="tokens/s", goal="max", n=5, values=values
    )
    assert (spread.metric, spread.value, spread.goal) == ("rate_spread", 2.0, "none")


def test_the_start_of_a_run_does_not_count_and_each_step_does(monkeypatch):
    clock = Clock(monkeypatch)

    def takes(seconds):
        clock.now += seconds

    def start():
        takes(7)
        return map(takes, (2, 4))

    assert _speed.laps(start, warmups=1, repeats=3) == [[2, 4]] * 3
    assert _speed.seconds(lambda: takes(3), warmups=0, repeats=2) == [3, 3]


class Scripted(nn.Module):
    """Takes a known time for each forward pass, and gives token 1 always."""

    config = object()

    def __init__(self, clock, seconds):
        super().__init__()
        self.embedding = nn.Embedding(256, 2)
        self.clock, self.seconds = clock, iter(seconds)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, past_key_values, use_cache, logits_to_keep):
        self.clock.now += next(self.seconds)
        logits = torch.zeros(len(input_ids), logits_to_keep, 256)
        logits[..., 1] = 1
        return SimpleNamespace(logits=logits, past_key_values=())


def test_decoding_reports_the_first_token_the_gaps_and_the_rate(monkeypatch):
    monkeypatch.setattr(_speed, "vocabulary", lambda net: 256)
    # One warm-up, then two runs of a prompt and three tokens (seconds).
    warmup, runs = [9.0] * 4, [0.2, 0.01, 0.02, 0.05, 0.4, 0.03, 0.04, 0.13]
    net = Scripted(Clock(monkeypatch), warmup + runs)
    model = Model(name="net", net=net, kind="causal_lm", roles={}, example=dict)
    task = build("decode", batch=2, prompt=4, length=3, warmups=1, repeats=2)

    found = list(task.evaluate(model))

    assert [(m.metric, m.unit, m.goal) for m in found] == [
        ("decode_rate", "tokens/s", "max"),
        ("decode_rate_spread", "tokens/s", "none"),
        ("ttft", "ms", "min"),
        ("ttft_spread", "ms", "none"),
        ("itl", "ms", "min"),
        ("itl_spread", "ms", "none"),
    ]
    # 2 x 3 tokens in 0.08 s are 75 a second, in 0.2 s 30: the median is 52.5, the
    # quartiles are 41.25 and 63.75.
    # Gaps of 10, 20, 30, 40, 50, 130 ms: median 35, quartiles 22.5 and 47.5.
    assert [m.value for m in found] == pytest.approx([52.5, 22.5, 300, 100, 35, 25])
    assert found[0].values == pytest.approx([75, 30])
    assert found[2].values == pytest.approx([200, 400])
    assert found[4].values == pytest.approx([10, 20, 50, 30, 40, 130])


def test_prefill_counts_all_tokens_of_a_batch():
    model = tiny("llama")
    seen = []
    model.net.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["input_ids"].shape),
        with_kwargs=True,
    )
    task = build("prefill", batch=2, length=32, warmups=1, repeats=2)
    found = measured(task, model)
    assert seen == [(2, 32)] * 3
    assert found["prefill_rate"].goal == "max"
    assert all(rate > 0 for rate in found["prefill_rate"].values)


def _greedy(net, prompt, count):
    """What transformers' own generation writes."""
    whole = net.generate(
        prompt, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    return whole[:, prompt.shape[1] :]


@pytest.mark.parametrize("fixed", [False, True], ids=["growing", "fixed"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoding_writes_what_greedy_generation_writes(family, fixed):
    net = tiny(family).net
    prompt = torch.tensor([[7, 3, 9, 11], [1, 2, 3, 4]])
    writer = _Writer(net, prompt)
    if fixed:
        writer.fix_cache(4 + 5)
    with torch.inference_mode():
        expected = _greedy(net, prompt, 6)
        for _ in range(2):  # a second run starts from the prompt again
            assert torch.equal(torch.cat(list(writer.write(5)), 1), expected)


def test_every_repeat_of_decoding_starts_from_the_prompt():
    model = tiny("llama")
    lengths = []
    model.net.register_forward_pre_hook(
        lambda module, args, given: lengths.append(given["input_ids"].shape[1]),
        with_kwargs=True,
    )
    task = build("decode", prompt=6, length=3, warmups=0, repeats=2)
    assert measured(task, model)["decode_rate"].n == 2
    assert lengths == [6, 1, 1, 1] * 2


def _interpreted(monkeypatch):
    """Let torch.compile trace networks and run the graphs without a compiler."""
    ours = partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    # The prompt, the prompt in a cache that has its memory already, and one token.
    [
        ("prefill", {"length": 8}, 1),
        ("decode", {"prompt": 6, "length": 3}, 3),
    ],
)
def test_a_compiled_network_is_compiled_before_the_measurement(
    name, options, shapes, monkeypatch
):
    _interpreted(monkeypatch)
    task = build(name, compile=True, warmups=0, repeats=2, **options)
    torch._dynamo.utils.counters.clear()
    found = measured(task, tiny("llama", num_hidden_layers=1))
    assert found["compile_time"].value > 0
    assert found["compile_time"].goal == "none"
    assert found[f"{name}_rate"].n == 2
    # One graph each, and no part of the network outside of it.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == shapes
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
def test_a_low_rank_network_is_compiled_whole(monkeypatch):
    _interpreted(monkeypatch)
    model = tiny("llama", num_hidden_layers=1)
    method = find("method", "joint_rank_k").build({"extra_groups": "qkv"})
    ctx = context(model)
    net = method.compress(method.fit(model, ctx), 0.5, ctx)
    torch._dynamo.utils.counters.clear()
    measured(build("prefill", compile=True, length=8, repeats=2), model.with_net(net))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class Broken(nn.Module):
    """A compiled network whose compilation fails."""

    def __init__(self, net, why):
        super().__init__()
        self.config, self.why = net.config, why

    def forward(self, **given):
        raise BackendCompilerFailed("inductor", self.why, None)


@pytest.mark.parametrize(("name", "more"), [("prefill", {}), ("decode", {"prompt": 8})])
def test_without_a_compiler_the_trial_says_what_to_install(name, more, monkeypatch):
    broken = partial(Broken, why=InvalidCxxCompiler())
    monkeypatch.setattr(torch, "compile", lambda net, **how: broken(net))
    with pytest.raises(BenchError, match=r"needs a C\+\+ compiler.*install g\+\+"):
        measured(build(name, compile=True, length=8, **more), tiny("llama"))


def test_a_network_that_cannot_be_compiled_is_unsupported(monkeypatch):
    broken = partial(Broken, why=RuntimeError("no kernel\nfor this"))
    monkeypatch.setattr(torch, "compile", lambda net, **how: broken(net))
    said = "cannot compile tiny-llama: RuntimeError: no kernel$"
    with pytest.raises(Unsupported, match=said):
        measured(build("prefill", compile=True, length=8), tiny("llama"))


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_only_a_compiled_network_says_so_in_its_protocol(name):
    assert "compile" not in build(name).protocol()
    assert build(name, compile=True).protocol()["compile"] is True


@pytest.mark.parametrize(
    ("name", "options"),
    [("prefill", {"length": 65}), ("decode", {"prompt": 60, "length": 5})],
)
def test_a_sequence_longer_than_the_model_reads_is_unsupported(name, options):
    with pytest.raises(Unsupported, match="64 tokens at most, not 65"):
        measured(build(name, **options), tiny("llama"))


def test_memory_is_the_weights_and_the_widest_moment_of_the_pass():
    # Two layers: while the second writes its 10 outputs, the first's 1,000 still live.
    net = nn.Sequential(nn.Linear(10, 1000), nn.Linear(1000, 10)).eval()
    model = Model(
        name="net",
        net=net,
        kind="classifier",
        roles={},
        example=lambda: {"input": torch.zeros(1, 10)},
    )
    found = measured(build("memory", batch=64), model)
    own = 4 * (10 * 1000 + 1000 + 1000 * 10 + 10)
    beside = 4 * 64 * (1000 + 10)
    assert found["weights"].value == own
    assert found["running"].value == beside
    assert found["peak"].value == own + beside
    assert found["peak_spread"].value == 0


def test_the_peak_is_the_sum_of_its_parts_when_repeats_differ(monkeypatch):
    from tasks import memory

    peaks = iter([100, 900, 200])
    monkeypatch.setattr(memory, "running", lambda run: next(peaks))
    model = find("model", "mlp").build({}).build({"classes": 2, "input": [1, 4, 4]}, 0)

    found = measured(build("memory", warmups=0), model)

    assert found["running"].value == 200  # the median, as the protocol says
    assert found["peak"].value == found["weights"].value + 200


def test_a_shared_weight_is_in_memory_once():
    first = nn.Linear(8, 8, bias=False)
    assert weights(nn.Sequential(first, first)) == 4 * 64


def test_what_a_run_lets_go_is_not_held_at_its_end():
    def run():
        for _ in range(5):
            torch.zeros(1000)

    assert running(run) == 4000


def test_memory_prints_nothing(capfd):
    running(lambda: torch.zeros(10))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["prefill", "decode", "latency", "memory"])
def test_speed_needs_the_device_alone_and_says_where_it_was_measured(name):
    part = PluginSpec(name=name, plugin=name, protocol='{"batch":1}')
    assert is_exclusive(part)
    here = rows.protocol(part)
    assert here["host"] == devices.host()
    assert here["threads"] == torch.get_num_threads()
    assert "host" not in part.identity()[0]["protocol"]


def test_a_task_of_accuracy_has_no_place():
    part = PluginSpec(name="digits", plugin="digits", protocol="{}")
    assert "host" not in rows.protocol(part)


def test_a_trained_model_shares_the_checkpoint_of_the_task_it_is_trained_on():
    digits = find("task", "digits").build({"limit": 100})
    speed = build("latency", trained_on={"name": "digits", "limit": 100})
    assert speed.training() == digits.training()
    assert speed.data().shape == digits.data().shape
    assert speed.fingerprint() == digits.fingerprint()


def test_a_trained_model_without_data_is_told_how_to_name_some():
    with pytest.raises(BenchError, match="trained_on: digits"):
        build("latency").training()
    with pytest.raises(BenchError, match="pydoc-512 gives no training data"):
        build("latency", trained_on="pydoc-512").training()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("latency", {"batch": 0}),
        ("memory", {"repeats": 1}),
        ("prefill", {"warmups": -1}),
        ("prefill", {"length": 0}),
        ("decode", {"prompt": 0}),
    ],
)
def test_an_option_out_of_range_is_refused(name, options):
    with pytest.raises(BenchError, match="or more"):
        build(name, **options)


def test_tokens_stay_below_the_embedding_of_a_nested_configuration():
    model = tiny("llama")
    whole = model.net.config

    class Nested:
        """Has a text configuration and no vocabulary itself, as Gemma 3."""

        def get_text_config(self):
            return whole

    model.net.config = Nested()
    ids = _speed.tokens(model, batch=5, length=60)
    assert ids.shape == (5, 60)
    assert int(ids.max()) == whole.vocab_size - 1

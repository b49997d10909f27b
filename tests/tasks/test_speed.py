import time

import pytest
import torch
from tiny_llm import tiny
from torch import nn

from harness.core import BenchError, Measurement, Model, Unsupported
from harness.planning.plan import is_exclusive
from harness.planning.trial import PluginSpec
from harness.registry import find
from harness.running import rows
from harness.toolkit import devices
from tasks import _speed
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


class Sleeps(nn.Linear):
    """Takes a known time for each batch."""

    def __init__(self, *seconds):
        super().__init__(10, 2)
        self.seconds = list(seconds)
        self.rows = []

    def forward(self, images):
        self.rows.append(len(images))
        time.sleep(self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0])
        return super().forward(images)


def test_latency_is_the_median_of_the_repeats_without_the_warmups():
    net = Sleeps(0.2, 0.01, 0.03, 0.05)
    task = build("latency", batch=4, warmups=1, repeats=3)
    found = measured(task, classifier(net))
    assert net.rows == [4, 4, 4, 4]
    assert found["latency"].n == 3
    assert found["latency"].value == pytest.approx(30, rel=0.3)
    # Quartiles of 10, 30, 50 are 20 and 40.
    assert found["latency_spread"].value == pytest.approx(20, rel=0.4)
    assert found["latency"].goal == "min"


def test_the_median_and_the_quartiles_are_those_of_a_hand_worked_list():
    values = [1.0, 2.0, 3.0, 4.0, 100.0]
    middle, spread = _speed.median("rate", values, unit="tokens/s", goal="max")
    assert middle == Measurement(
        metric="rate", value=3.0, unit="tokens/s", goal="max", n=5, values=values
    )
    assert (spread.metric, spread.value, spread.goal) == ("rate_spread", 2.0, "none")


def test_preparation_does_not_count():
    found = _speed.seconds(
        lambda: None, warmups=1, repeats=3, prepare=lambda: time.sleep(0.05)
    )
    assert len(found) == 3
    assert max(found) < 0.02


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


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoding_writes_what_greedy_generation_writes(family):
    from tasks.decode import _Writer

    net = tiny(family).net
    prompt = torch.tensor([[7, 3, 9, 11]])
    written = []
    net.register_forward_hook(
        lambda module, args, given, out: written.append(out.logits[0, -1].argmax()),
        with_kwargs=True,
    )
    writer = _Writer(net, prompt)
    with torch.inference_mode():
        writer.read()
        writer.write(5)
        likeliest = [int(t) for t in written[:-1]]
        expected = net.generate(
            prompt, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None
        )[0, 4:]
    assert likeliest == expected.tolist()


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

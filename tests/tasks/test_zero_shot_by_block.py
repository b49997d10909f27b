"""Zero-shot tasks on a network in files: equal numbers, and each block read once."""

import copy
from dataclasses import replace

import pytest
import tiny_llm
import torch
from block_reads import BlockReads
from spied_lm import CHOICE, LETTERS, measured, tokenizer

from harness.toolkit import blockwise, host_memory
from harness.toolkit.host_memory import HostMemory
from tasks._lm_eval.in_memory import InMemory
from tasks._perplexity import window_losses

ROLLING = """
task: rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}]
{more}
"""
KINDS = {"choice": CHOICE, "rolling": ROLLING}
# Answers of several tokens, of different lengths: no request shares its logits.
ANSWERS = "doc_to_choice: [abc, dcbaa]"


def texts(count):
    """Texts of 1 to 8 letters, all of them different."""
    return tuple(
        "".join(LETTERS[(i // 8**j + j) % 8] for j in range(1 + i % 7)) + LETTERS[i % 8]
        for i in range(count)
    )


@pytest.fixture
def models(tmp_path):
    """One network in memory and in files."""
    model = replace(tiny_llm.tiny("llama"), tokenizer=tokenizer())
    net = copy.deepcopy(model.net)
    host_memory.hold(net, HostMemory(tmp_path, smallest=256))
    return model, model.with_net(net)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [2**16, 40])
def test_numbers_are_those_of_a_network_in_memory(
    task, models, monkeypatch, kind, at_once
):
    monkeypatch.setattr(blockwise, "_AT_ONCE", at_once)
    more = ANSWERS if kind == "choice" else ""
    chosen = task(KINDS[kind], texts=texts(19), more=more, batch_size=4)

    likelihoods = []
    score = InMemory._loglikelihood_tokens

    def noted(*args, **options):
        likelihoods.append(score(*args, **options))
        return likelihoods[-1]

    monkeypatch.setattr(InMemory, "_loglikelihood_tokens", noted)

    wanted, found = (measured(chosen, model) for model in models)

    # In memory once; in files once to learn the batches, once with their logits.
    calls = len(likelihoods) // 3
    for one, other in zip(likelihoods[:calls], likelihoods[-calls:], strict=True):
        assert [v for v, _ in other] == pytest.approx([v for v, _ in one], rel=1e-5)
        assert [greedy for _, greedy in other] == [greedy for _, greedy in one]
    assert {m: v.value for m, v in found.items()} == pytest.approx(
        {m: v.value for m, v in wanted.items()}, rel=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_read_once_for_any_number_of_requests(task, models, kind):
    more = ANSWERS if kind == "choice" else ""
    blocks = blockwise.blocks_of(models[1])[1]
    for count in (4, 32):
        chosen = task(KINDS[kind], texts=texts(count), more=more, batch_size=2)
        with BlockReads(blocks) as reads:
            measured(chosen, models[1])
        assert reads.order == list(range(len(blocks)))


def test_perplexity_reads_each_block_once(models):
    ids = torch.arange(16 * 9 + 5).remainder(250)
    blocks = blockwise.blocks_of(models[1])[1]
    with BlockReads(blocks) as reads:
        losses = window_losses(models[1], list(ids.split(16)))
    assert reads.order == list(range(len(blocks)))
    assert losses == pytest.approx(window_losses(models[0], list(ids.split(16))))


def test_groups_of_batches_bound_the_hidden_states_that_are_alive(models, monkeypatch):
    monkeypatch.setattr(blockwise, "_AT_ONCE", 64)
    ids = torch.arange(16 * 9).remainder(250)
    batches = [one[None] for one in ids.split(16)]  # 4 + 4 + 1 fit
    blocks = blockwise.blocks_of(models[1])[1]
    with BlockReads(blocks) as reads:
        made = [ids for ids, _ in blockwise.logits_by_block(models[1], batches)]
    assert reads.order == list(range(len(blocks))) * 3
    assert [one.tolist() for one in made] == [one.tolist() for one in batches]

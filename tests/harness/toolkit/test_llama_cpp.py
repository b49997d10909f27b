"""Compressed models in llama.cpp: it writes the words that transformers writes."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.core import BenchError, Context
from harness.registry import find
from harness.toolkit import gguf_check, gguf_form, hugging_face_form, merged

PROMPTS = ("The capital of France is", "def fibonacci(n):\n")
WORDS = 12
# Method, its options, and ratio.
CASES = {
    "magnitude": ({}, 0.3),
    "svd": ({}, 0.1),
    "round_to_nearest": ({"bits": 4, "group_size": 64}, 0.875),
}

pytestmark = [
    pytest.mark.timeout(1800),  # two copies of a network of 30 blocks, four times
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec(gguf_check.PACKAGE) is None,
        reason="the package llama-cpp-python is not installed",
    ),
]


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_writes_what_transformers_writes(name, tmp_path: Path):
    from llama_cpp import Llama

    try:
        model = find("model", "smollm2-135m").build({}).load()
    except BenchError as why:
        pytest.skip(str(why))
    ctx = Context(model=model, seed=0, device=torch.device("cpu"))
    options, ratio = CASES[name]
    method = find("method", name).build(options)
    fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
    compressed = model.with_net(method.compress(fitted, ratio, ctx).eval())
    origin = {"model": "smollm2-135m", "options": {}, "shape": None}
    merged.multiply_out(compressed)
    hf, file = tmp_path / "hf", tmp_path / gguf_form.FILE
    hugging_face_form.write(compressed, origin, hf, "---\n---\n", plain=True)
    net = AutoModelForCausalLM.from_pretrained(hf)

    gap = gguf_form.write(compressed, origin, tmp_path, "---\n---\n")

    assert gap is not None
    assert gap < 1e-3
    # Keys and values in float32 (0), which llama.cpp rounds to 16 bits by default.
    exact = {"type_k": 0, "type_v": 0, "flash_attn": False, "n_threads": 1}
    other = Llama(str(file), n_ctx=64, logits_all=True, verbose=False, **exact)
    for text in PROMPTS:
        prompt = model.tokenizer(text, return_tensors="pt").input_ids
        told = other.tokenize(text.encode(), add_bos=True, special=True)
        assert told == prompt[0].tolist()
        greedy = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        written = net.generate(prompt, max_new_tokens=WORDS, **greedy)[0].tolist()
        other.reset()
        other.eval(told)
        for _ in range(WORDS):
            told.append(int(np.argmax(other.scores[other.n_tokens - 1])))
            other.eval(told[-1:])
        assert told == written
        with torch.inference_mode():
            logits = net(torch.tensor([written])).logits[0].numpy()
        gap = float(np.abs(other.scores[: len(written)] - logits).max())
        largest = float(np.abs(logits).max())
        assert gap < 1e-3 * largest

"""A pruned model in llama.cpp: it writes the words that transformers writes."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.core import BenchError, Context
from harness.registry import find
from harness.toolkit import hugging_face_form

# Not in a registry: it comes with the sources of llama.cpp, and of llama-cpp-python.
CONVERTER = os.environ.get("CONVERT_HF_TO_GGUF", "")
PROMPTS = ("The capital of France is", "def fibonacci(n):\n")
WORDS = 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("llama_cpp") is None,
        reason="the package llama-cpp-python is not installed",
    ),
    pytest.mark.skipif(
        not CONVERTER,
        reason="CONVERT_HF_TO_GGUF does not name llama.cpp's convert_hf_to_gguf.py",
    ),
]


def test_llama_cpp_writes_what_transformers_writes(tmp_path: Path):
    from llama_cpp import Llama

    try:
        model = find("model", "smollm2-135m").build({}).load()
    except BenchError as why:
        pytest.skip(str(why))
    ctx = Context(model=model, seed=0, device=torch.device("cpu"))
    pruned = find("method", "magnitude").build({}).compress(None, 0.3, ctx)
    origin = {"model": "smollm2-135m", "options": {}, "shape": None}
    folder, file = tmp_path / "hf", tmp_path / "model.gguf"
    hugging_face_form.write(model.with_net(pruned), origin, folder, "---\n---\n")
    words = [sys.executable, CONVERTER, str(folder), "--outtype", "f32"]
    subprocess.run([*words, "--outfile", str(file)], check=True, capture_output=True)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForCausalLM.from_pretrained(folder)
    # Keys and values in float32 (0), which llama.cpp rounds to 16 bits by default.
    exact = {"type_k": 0, "type_v": 0, "flash_attn": False, "n_threads": 1}
    other = Llama(str(file), n_ctx=64, logits_all=True, verbose=False, **exact)

    for text in PROMPTS:
        prompt = tokenizer(text, return_tensors="pt").input_ids
        told = other.tokenize(text.encode(), add_bos=False, special=True)
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
        gap = np.abs(other.scores[: len(written)] - logits).max()
        assert gap < 1e-3 * np.abs(logits).max()

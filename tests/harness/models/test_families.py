"""Dense perplexity of forty tiny families, here and by plain transformers."""

import inspect
import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from harness.models.huggingface import HuggingFace
from tasks.text_perplexity import TextPerplexity

pytestmark = pytest.mark.slow
WINDOW, VOCABULARY = 48, 128
TEXT = "the quick brown fox jumps over the lazy dog and runs " * 12
# Families of causal language models, with the configuration keys that the common sizes
# below do not cover. Each of them builds with the installed transformers.
FAMILIES = {
    "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {}, "gemma": {}, "gemma2": {},
    "gemma3_text": {}, "phi": {}, "phi3": {}, "opt": {"ffn_dim": 40}, "gpt2": {},
    "gpt_neox": {}, "gptj": {"rotary_dim": 4}, "gpt_bigcode": {},
    "codegen": {"rotary_dim": 4},
    "bloom": {}, "falcon": {}, "stablelm": {}, "starcoder2": {}, "olmo": {},
    "olmo2": {}, "cohere": {}, "granite": {}, "glm4": {}, "smollm3": {}, "ernie4_5": {},
    "mixtral": {"num_local_experts": 4}, "qwen2_moe": {"num_experts": 4},
    "qwen3_moe": {"num_experts": 4}, "olmoe": {"num_experts": 4},
    "granitemoe": {"num_local_experts": 4}, "phimoe": {"num_local_experts": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "mpt": {}, "persimmon": {}, "nemotron": {}, "mamba": {}, "exaone4": {},
    "helium": {}, "biogpt": {}, "xglm": {"ffn_dim": 40},
    "gpt_oss": {"num_local_experts": 4}, "arcee": {}, "seed_oss": {},
    "hunyuan_v1_dense": {},
    "apertus": {},
    "lfm2": {},
}  # fmt: skip
COMMON = {
    "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "word_embed_proj_dim": 32,
    "intermediate_size": 40, "moe_intermediate_size": 24, "head_dim": 8, "n_inner": 40,
    "shared_expert_intermediate_size": 24, "num_hidden_layers": 2, "n_layer": 2,
    "n_layers": 2, "num_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4,
    "num_heads": 4, "attention_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2,
    "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64,
    "num_experts_per_tok": 2, "sliding_window": 16, "state_size": 4,
}  # fmt: skip


def tokenizer():
    """One token a letter."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = {chr(i): i for i in range(97, 123)} | {"?": 1}
    backend = Tokenizer(models.WordLevel(letters, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def configuration(family, changes):
    """The family's configuration with every size that it knows made tiny."""
    cls = CONFIG_MAPPING[family]
    known = set(inspect.signature(cls.__init__).parameters)
    known |= set(getattr(cls, "__annotations__", ())) | set(cls.attribute_map)
    return cls(**{k: v for k, v in COMMON.items() if k in known} | changes)


def reference(folder):
    """Perplexity over full windows, by transformers and its own loss alone."""
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    # Some families read a folder with their own tokenizer class, other than it was
    # saved with; plain transformers does so too.
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(TEXT).input_ids)
    windows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    with torch.inference_mode():
        losses = [float(net(input_ids=w[None], labels=w[None]).loss) for w in windows]
    return math.exp(math.fsum(losses) / len(losses))


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_perplexity_is_that_of_plain_transformers(family, tmp_path):
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(configuration(family, FAMILIES[family]))
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim >= 2:
                weight.mul_(4)  # so that families differ from a uniform guess
    net.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    text = tmp_path / "text"
    text.write_text(TEXT)

    model = HuggingFace(id=str(tmp_path)).load()
    task = TextPerplexity(text=str(text), window=WINDOW)
    measured = {m.metric: m.value for m in task.evaluate(model)}

    assert measured["perplexity"] == pytest.approx(reference(tmp_path), rel=1e-5)

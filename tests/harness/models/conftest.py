"""A folder with a tiny language model."""

import pytest
import torch
from tiny_llm import config
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


@pytest.fixture
def folder(tmp_path):
    """A tiny model with a tokenizer of one token a letter, as users keep them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = {chr(i): i for i in range(97, 123)} | {"?": 0}
    backend = Tokenizer(models.WordLevel(letters, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config("llama")).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    return tmp_path

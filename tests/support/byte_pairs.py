"""Small tokenizers of byte pairs, each with one of the pre-tokenizers of models."""

import pydoc_data.topics

from tokenizers import Regex, Tokenizer, decoders, models, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from transformers import PreTrainedTokenizerFast

# The regular expression in the tokenizer.json of Qwen2; that of Llama 3 takes up to
# three digits at a time.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _split(pattern):
    cut = Split(Regex(pattern), "isolated")
    return Sequence([cut, ByteLevel(add_prefix_space=False, use_regex=False)])


def pre_tokenizer(name):
    words = ByteLevel(add_prefix_space=False)
    return {
        "gpt-2": words,
        "smollm": Sequence([Digits(individual_digits=True), words]),
        "llama-bpe": _split(LLAMA3),
        "qwen2": _split(QWEN2),
    }[name]


def tokenizer(name="gpt-2", *, begin=False, **changes):
    """300 tokens that were trained on the Python manual; ``<s>`` is 0, ``</s>`` 1."""
    backend = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    backend.pre_tokenizer = pre_tokenizer(name)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [pydoc_data.topics.topics[key] for key in ("if", "while", "lambda")]
    backend.train_from_iterator(texts, trainer)
    if begin:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    for key, value in changes.items():
        setattr(backend, key, value)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
    )

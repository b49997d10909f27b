"""A language model that remembers what it saw, and tasks of lm-eval to ask it with."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.llama import LlamaConfig

from harness.core import Model

END, BEGIN = 0, 1
LETTERS = "abcdefgh"
WORDS = {word: i for i, word in enumerate(["</s>", "<s>", "?", *LETTERS])}

CHOICE = """
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: [a, b]
doc_to_target: 0
target_delimiter: ""
fewshot_delimiter: "h"
metric_list: [{{metric: acc}}]
metadata: {{version: 3}}
{more}
"""
WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: a
generation_kwargs: {{max_gen_toks: {more}, do_sample: false, until: []}}
metric_list: [{{metric: exact_match}}]
"""


TEMPLATE = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}"
# Letters of the tokenizer: "g" asks to reason, "h" ends the reasoning.
THINKING = (
    TEMPLATE + "{% if add_generation_prompt %}"
    "{{ 'g' if enable_thinking is not defined or enable_thinking else 'gh' }}"
    "{% endif %}"
)
# As DeepSeek V3.1 and Granite name it: not to reason is the default.
NAMED = TEMPLATE + "{{ 'g' if thinking is defined and thinking else 'gh' }}"
WRITES = WRITING.replace("max_gen_toks: {more}, ", "").replace("{more}", "")
SHOTS = WRITING.replace("test_split", "training_split: test\ntest_split", 1)
DRAWS = WRITES.replace("do_sample: false", "do_sample: true, temperature: 0.5")


class Spy(nn.Module):
    """Finds every token equally likely, and remembers what it saw."""

    def __init__(self, length=32):
        super().__init__()
        self.config = LlamaConfig(max_position_embeddings=length)
        self.logits = nn.Parameter(torch.zeros(len(WORDS)))
        self.rows, self.options = [], []

    def forward(self, ids):
        self.rows += ids.tolist()
        shape = (*ids.shape, len(self.logits))
        return type("Output", (), {"logits": self.logits.expand(shape)})

    def generate(self, input_ids, max_length, **options):
        self.rows += input_ids.tolist()
        self.options.append(options)
        more = torch.full((len(input_ids), max_length - input_ids.shape[1]), 3)
        return torch.cat([input_ids, more], 1)


def tokenizer(template=None, **options):
    """One token a letter; ``template`` says which special tokens are added."""
    made = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    if template:
        made.post_processor = processors.TemplateProcessing(
            single=template,
            pair=f"{template} $B",
            special_tokens=[("</s>", END), ("<s>", BEGIN)],
        )
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "?"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **(tokens | options))


KINDS = {
    "none": {},
    "begin": {"template": "<s> $A"},
    "end": {"template": "$A </s>"},
    "both": {"template": "<s> $A </s>"},
    "begin is end": {"template": "</s> $A", "bos_token": "</s>"},
    "rule off": {"add_bos_token": False},
    "rule on": {"add_bos_token": True},
}


def spied(kind="none", length=32, **options):
    """A model around ``Spy`` with a tokenizer of ``KINDS``."""
    return Model(
        name="spy",
        net=Spy(length),
        kind="causal_lm",
        roles={},
        example=dict,
        tokenizer=tokenizer(**(KINDS[kind] | options)),
    )


def measured(chosen, model):
    """The measurements of a task, by metric."""
    return {m.metric: m for m in chosen.evaluate(model)}

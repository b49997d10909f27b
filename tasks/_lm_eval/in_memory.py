"""lm-eval's model class around a network in memory, with checks of its own."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor, nn

from harness.core import BenchError, Model, NotFinite, Unsupported
from harness.toolkit import host_memory
from harness.toolkit.blockwise import logits_by_block

_SAMPLE = "The"  # any text shows what a tokenizer puts around it


class InMemory(HFLM):
    """lm-eval's own model class around a network in memory.

    Each text is tokenised once for all networks that share a tokenizer, a likelihood
    that is not finite fails, and prompts that lm-eval cuts to the model's length are
    counted: lm-eval only warns.

    Args:
        model: The network and its length.
        tokenizer: A copy of the model's tokenizer, from ``tokenizer_for``.
        tokens: What the tokenizer made of each text so far; grows.
        **options: ``batch_size``, ``add_bos_token``, ``enable_thinking``,
            ``chat_template_args`` and ``think_end_token``, as ``HFLM`` has them.
    """

    def __init__(
        self, model: Model, tokenizer: Any, tokens: dict[Any, Any], **options: Any
    ) -> None:
        self._tokens = tokens
        self._of = model
        self._name = model.name
        self._noted: list[Tensor] | None = None  # batches, while they are collected
        self._answers: Iterator[tuple[Tensor, Tensor]] | None = None
        self._cut_texts: set[str] = set()
        self.cut: dict[str, set[Any]] = {}  # task -> documents with a cut prompt
        self.written = self.unfinished = 0  # answers; those whose reasoning has no end
        end = options.get("think_end_token")
        if end in tokenizer.all_special_tokens:
            # lm-eval decodes without special tokens, and would never find the text.
            options["think_end_token"] = tokenizer.convert_tokens_to_ids(end)
        super().__init__(
            pretrained=_Net(model.net),
            tokenizer=tokenizer,
            backend="causal",
            **options,
        )

    def tok_encode(self, string: str, *args: Any, **options: Any) -> list[int]:
        """Tokenise as lm-eval does, and remember the result."""
        # The options are part of the key: with and without special tokens a text has
        # other tokens.
        key = (string, args, tuple(options.items()))
        if key not in self._tokens:
            self._tokens[key] = super().tok_encode(string, *args, **options)
        known: list[int] = self._tokens[key]
        return known

    def tok_batch_encode(
        self, strings: Any, *args: Any, left_truncate_len: int | None = None, **kw: Any
    ) -> Any:
        """Tokenise prompts as lm-eval does, and note which ones it cuts."""
        whole, mask = super().tok_batch_encode(strings, *args, **kw)
        # The parent would cut in silence; asked for the whole prompts, it lets them be
        # counted and cut here.
        if left_truncate_len:
            lengths = mask.sum(1).tolist()  # without padding
            for text, length in zip(strings, lengths, strict=True):
                if length > left_truncate_len:
                    self._cut_texts.add(text)
            whole, mask = whole[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return whole, mask

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As lm-eval does; answers that cannot be scored are refused in words."""
        for request in requests:
            context, answer = request.args
            # Nothing in front of the answer: lm-eval puts one token there, and nothing
            # can be cut or merged.
            if not context:
                continue
            before, scored = self._encode_pair(context, answer)
            if not scored:
                raise BenchError(
                    f"the tokenizer of {self._name} merges the answer {answer!r} into "
                    "its prompt, so that no token is left to score"
                )
            if len(scored) > self.max_length:
                raise Unsupported(
                    f"an answer of {request.task_name} has {len(scored)} tokens, and "
                    f"{self._name} reads {self.max_length} at most"
                )
            # The last token is predicted and never read: one token more than the length
            # fits.
            if len(before) + len(scored) > self.max_length + 1:
                self._note_cut(request)
        ask = super().loglikelihood
        return self._by_block(lambda: ask(requests, disable_tqdm))

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As lm-eval does."""
        ask = super().loglikelihood_rolling
        return self._by_block(lambda: ask(requests, disable_tqdm))

    def _by_block(self, ask: Callable[[], Any]) -> Any:
        """Ask a network in files so that each block is read once for many batches.

        lm-eval asks for the logits of one batch at a time, which would read all blocks
        for every batch. It makes the same batches whatever the logits are: so it runs
        once with zeros in their place, and again with the logits of these batches.
        """
        if host_memory.of(self._of.net) is None:
            return ask()
        batches: list[Tensor] = []
        self._noted = batches
        try:
            ask()
            self._noted, self._answers = None, logits_by_block(self._of, batches)
            return ask()
        finally:
            self._noted = self._answers = None

    def _model_call(self, inps: Tensor, *args: Any, **options: Any) -> Tensor:
        """The logits of a batch, shape ``(batch, T, V)``; zeros while it is noted."""
        if self._noted is not None:
            self._noted.append(inps)
            return inps.new_zeros((*inps.shape, 1)).float()
        if self._answers is None:
            made: Tensor = super()._model_call(inps, *args, **options)
            return made
        ids, logits = next(self._answers)
        if not torch.equal(ids, inps):
            raise RuntimeError("lm-eval made other batches the second time")
        return logits

    def _select_cont_toks(self, logits: Tensor, *args: Any, **options: Any) -> Tensor:
        """The logits of an answer, shape ``(tokens of the answer, V)``."""
        found: Tensor = super()._select_cont_toks(logits, *args, **options)
        if self._noted is None:
            return found
        return found.expand(-1, len(self.tokenizer))  # zeros, without memory for all V

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As lm-eval does; a model too short to write the answer is unsupported."""
        for request in requests:
            options = normalize_gen_kwargs(request.args[1], self.max_gen_toks)
            written = options["max_gen_toks"]
            if written >= self.max_length:
                raise Unsupported(
                    f"{request.task_name} lets the model write {written} tokens, and "
                    f"{self._name} reads {self.max_length} with the prompt"
                )
        answers = super().generate_until(requests, disable_tqdm)
        for request in requests:
            if request.args[0] in self._cut_texts:
                self._note_cut(request)
        return answers

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        """As lm-eval does; reasoning is not stopped by what ends an answer.

        A blank line, which ends the answers of many tasks, is usual inside reasoning.
        lm-eval with vLLM leaves these stops out while the model writes, with
        transformers it does not; both cut the answer there afterwards.
        """
        if self.think_end_token is None:
            made: Tensor = super()._model_generate(context, max_length, stop, **options)
            return made
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        stop = [text for text in stop if text == end]
        made = super()._model_generate(context, max_length, stop, **options)
        rows = made[:, context.shape[1] :].tolist()
        self.written += len(rows)
        self.unfinished += sum(not self._ends_reasoning(row) for row in rows)
        return made

    def _ends_reasoning(self, row: list[int]) -> bool:
        if isinstance(self.think_end_token, int):
            return self.think_end_token in row
        return self.think_end_token in self.tok_decode(row)

    def _note_cut(self, request: Any) -> None:
        self.cut.setdefault(request.task_name, set()).add(request.doc_id)

    def _encode_pair(self, context: str, continuation: str) -> Any:
        key = (context, continuation)
        if key not in self._tokens:
            self._tokens[key] = super()._encode_pair(context, continuation)
        return self._tokens[key]

    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
        found = super()._loglikelihood_tokens(requests, **options)
        if not all(math.isfinite(value) for value, _ in found):
            raise NotFinite("the log-likelihood of an answer is not finite")
        return found


class _Net:
    """Only what lm-eval needs of a network; given the network, it would tie weights."""

    def __init__(self, net: nn.Module) -> None:
        # Tying weights would undo a compression that untied them.
        self.config: Any = net.config
        self.device = host_memory.compute_device(net)
        self.dtype = next(net.parameters()).dtype
        self.generate: Any = getattr(net, "generate", None)
        self.name_or_path = ""
        self._net = net

    def __call__(self, ids: Tensor) -> Any:
        return self._net(ids)


def tokenizer_for(
    model: Model, *, add_bos: bool | None, template: bool | str = False
) -> Any:
    """The tokenizer that lm-eval's command line would make from the saved model.

    It is a copy: lm-eval sets a padding token in it.

    Args:
        model: Has a tokenizer with an end token.
        add_bos: The option of the task.
        template: Name of the chat template, if the tokenizer has several.

    Returns:
        A tokenizer of transformers.

    Raises:
        BenchError: If it would not do what the protocol says: add a begin token where
            one is asked for, and nothing behind the text.
    """
    made = copy.deepcopy(model.tokenizer)
    if add_bos:
        # Asking for special tokens when encoding, as for a tokenizer in memory, adds a
        # begin token only where the tokenizer's own rule does; so reload it with the
        # rule changed, as the command line does.
        with tempfile.TemporaryDirectory() as folder:
            made.save_pretrained(folder)
            made = type(made).from_pretrained(folder, add_bos_token=True)
    if isinstance(template, str) and isinstance(made.chat_template, dict):
        # lm-eval reports the template of this name, and writes prompts in the default.
        made.chat_template = made.chat_template[template]
    # None leaves the tokenizer's own rule as it is.
    rule = {} if add_bos is None else {"add_special_tokens": add_bos}
    found = made(_SAMPLE, return_special_tokens_mask=True, **rule)
    ids, special = found["input_ids"], found["special_tokens_mask"]
    if add_bos and (not ids or ids[0] != made.bos_token_id):
        raise BenchError(
            f"add_bos: the tokenizer of {model.name} puts no begin token before a text "
            "though it has one; leave add_bos out, or change its post-processor"
        )
    if special and special[-1]:
        raise BenchError(
            f"the tokenizer of {model.name} appends {made.decode(ids[-1:])!r} to every "
            "text, so that lm-eval would score that token instead of the answer; set "
            "add_bos: false, or add_eos_token to false in its tokenizer_config.json"
        )
    return made


def truncated(
    cut: Mapping[str, set[Any]], instances: Mapping[str, Iterable[Any]]
) -> dict[str, tuple[int, int]]:
    """Count the documents of each task whose prompt was cut.

    Args:
        cut: Task -> documents with a cut prompt.
        instances: Task -> its requests, several for each document.

    Returns:
        Task -> documents with a cut prompt, and all its documents.
    """
    return {
        name: (len(cut.get(name, ())), len({one.doc_id for one in asked}))
        for name, asked in instances.items()
    }

"""SliceGPT: rotates the residual stream and cuts its weakest directions off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Measurement, Model, Unsupported
from harness.registry import method
from harness.toolkit.blockwise import stream
from harness.toolkit.host_memory import settle
from harness.toolkit.roles import block_of
from harness.toolkit.saved_model import replace
from harness.toolkit.spread import devices_of
from methods._kernels.low_rank.factors import check_finite
from methods._kernels.low_rank.installed import empty
from methods._kernels.low_rank.ranks import kept
from methods._kernels.sliced import RootMeanSquare, SlicedBlock, norms_of

# The roles of the matrices that read the stream and that write to it, in either half.
READERS = (("query", "key", "value", "qkv"), ("gate", "up"))
WRITERS = (("output",), ("down",))


@method(
    "slicegpt",
    ratio_of="width",
    needs={"linears", "calibration", "width"},
    kinds={"causal_lm"},
    tolerance=0.05,
)
class SliceGpt:
    """Makes the residual stream of a language model narrower.

    A transformer without scales in its norms computes the same function if its hidden
    states are rotated: ``RMSNorm(x Q) = RMSNorm(x) Q`` for an orthogonal Q, which the
    matrices before and behind the norm undo. The scale of each norm, and for LayerNorm
    its bias and its mean, are put into these matrices. At each place of the stream
    (before the attention, and before the MLP, of every block) Q holds the eigenvectors
    of ``mean(x x^T)`` over the hidden states x, strongest first, and only the first
    ``width = floor((1 - ratio) hidden)`` directions P are kept: readers become ``W P``,
    writers ``P^T W``, and the residual path from one place to the next is multiplied by
    ``P^T P'``, a matrix that the dense network does not have. The statistics are those
    behind the blocks that are sliced already. Nothing is trained.

    The ratio is the share of the width of the stream that is cut off, as in the paper,
    not of the weights: ``achieved_params`` says how much smaller the network is.

    The paper is arXiv:2401.15024. Differences from the released code
    (microsoft/TransformerCompression at 6b12cde): the embeddings and the head stay as
    they are, and the first block multiplies the embeddings by P, which gives the same
    outputs; the released code slices the table of embeddings itself, which makes it
    smaller, and unties the head. The released code subtracts the mean of each embedding
    also in models with RMSNorm, which changes their function a little (``centre:
    always``). It rounds the width down to a multiple of 8 (``multiple: 8``).

    Args:
        multiple: The width is rounded down to a multiple of this number.
        centre: ``layer_norm`` subtracts the mean of the hidden states where the norms
            of the model do; ``always`` subtracts it from the embeddings of any model.
    """

    one_device: ClassVar[bool] = True  # the plan asks for no second one

    multiple: int = 1
    centre: Literal["layer_norm", "always"] = "layer_norm"

    def __post_init__(self) -> None:
        """Check the multiple.

        Raises:
            ValueError: If it is below 1.
        """
        if self.multiple < 1:
            raise ValueError(f"multiple {self.multiple} is below 1")

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        """A network whose blocks have narrower matrices.

        Args:
            fitted: None; the method has no ``fit``, since every width has statistics of
                its own.
            ratio: The share of the width to cut off, in [0, 1).
            ctx: Gives the dense network; records ``achieved_ratio``.

        Returns:
            A network whose stream has ``width`` channels between the first and last
            block.

        Raises:
            Unsupported: If the ratio leaves no direction, if the blocks of the model
                are built in another way, or if they are on several devices.
        """
        if len(devices_of(ctx.model.net)) > 1:
            raise Unsupported(
                "slicegpt multiplies directions of neighbouring blocks, which must be "
                "on one device: write `gpus: 1` for it under `resources`, with "
                "`placement: device`"
            )
        net = ctx.dense()
        running = stream(ctx.model, ctx.calibration().tokens)
        hidden = running.states[0].shape[-1]
        width = kept(hidden, ratio) // self.multiple * self.multiple
        if width < 1:
            raise Unsupported(
                f"ratio {ratio} leaves no direction of {hidden} in steps of "
                f"{self.multiple}: lower it"
            )
        achieved = 0.0 if ratio == 0 else 1 - width / hidden
        ctx.record(Measurement(metric="achieved_ratio", value=achieved, n=hidden))
        if ratio == 0:  # rotated weights would be rounded
            return net
        blocks = [_folded(ctx.model, net, path) for path, _ in running]
        _check(ctx.model, running, net, blocks[0])
        centred = self.centre == "always" or blocks[0].centred
        if centred:
            # LayerNorm subtracts the mean of every state. With embeddings and
            # everything that is written to the stream centred, the mean is always zero,
            # and only the division is left, which commutes with a rotation.
            running.states = [x - x.mean(-1, keepdim=True) for x in running.states]
        _slice(net, running, blocks, width, centred)
        return net


@dataclass(frozen=True, slots=True)
class Folded:
    """A block whose norms have neither scale nor bias.

    Args:
        path: Module path of the block.
        readers: Paths of the matrices that read the stream, in either half.
        writers: Path of the matrix that writes to it, in either half.
        centred: Whether its norms subtract the mean.
    """

    path: str
    readers: tuple[list[str], list[str]]
    writers: tuple[str, str]
    centred: bool


@torch.no_grad()
def _folded(model: Model, net: nn.Module, path: str) -> Folded:
    """Put the scales of the norms of a block into its matrices, in place."""
    block = net.get_submodule(path)
    found: dict[str, list[str]] = {}
    for name, _ in model.modules():
        if name.startswith(f"{path}.") and (role := model.role(name)):
            found.setdefault(role, []).append(name)
    halves = []
    known = {role for part in (*READERS, *WRITERS) for role in part}
    if other := sorted(found.keys() - known):
        raise Unsupported(
            f"block {block_of(path)} of {model.name} has a matrix of role {other[0]}, "
            "which cannot be sliced: choose a dense model of the LLaMA, Mistral, Qwen2 "
            "or OPT family"
        )
    for readers, writers in zip(READERS, WRITERS, strict=True):
        reads = [name for role in readers for name in found.get(role, [])]
        writes = [name for role in writers for name in found.get(role, [])]
        plain = all(type(net.get_submodule(n)) is nn.Linear for n in reads + writes)
        if not reads or len(writes) != 1 or not plain:
            raise Unsupported(
                f"block {block_of(path)} of {model.name} is not built of plain linear "
                "layers with one output and one down projection (a mixture has one an "
                "expert): choose a dense model of the LLaMA, Mistral, Qwen2 or OPT "
                "family, and put this method first in a chain"
            )
        halves.append((reads, writes[0]))
    try:
        names = norms_of(block)
    except LookupError as why:
        raise Unsupported(f"{why}, so that {model.name} cannot be sliced") from why
    norms = [getattr(block, name) for name in names]
    if any(getattr(norm, "weight", None) is None for norm in norms):
        raise Unsupported(
            f"the norms of {model.name} have no weights, so that their kind is not "
            "known: choose a model of the LLaMA, Mistral, Qwen2 or OPT family"
        )
    # LayerNorm subtracts the mean, RMSNorm does not.
    centred = all(isinstance(norm, nn.LayerNorm) for norm in norms)
    for name, norm, (reads, write) in zip(names, norms, halves, strict=True):
        for reader in reads:
            _absorb(net, reader, norm)
        if centred:
            _centre(net, write)
        eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        size = norm.weight.numel()
        replace(block, name, RootMeanSquare(size, float(eps or 0.0)))
    (first, output), (second, down) = halves
    return Folded(path, (first, second), (output, down), centred)


def _absorb(net: nn.Module, reader: str, norm: Any) -> None:
    """``W (scale * x + shift) + b`` as a linear layer of x."""
    old: Any = net.get_submodule(reader)
    weight, scale = old.weight.double(), norm.weight.double()
    bias = None if old.bias is None else old.bias.double()
    if getattr(norm, "bias", None) is not None:
        # W (scale * x + shift) + b = (W diag(scale)) x + (W shift + b)
        shifted = weight @ norm.bias.double()
        bias = shifted if bias is None else bias + shifted
    _put(net, reader, weight * scale, bias)


def _centre(net: nn.Module, writer: str) -> None:
    """Subtract the mean over the outputs from all that a matrix writes."""
    old: Any = net.get_submodule(writer)
    weight = old.weight.double()
    bias = None if old.bias is None else old.bias.double()
    bias = None if bias is None else bias - bias.mean()
    # (I - 1 1^T / n) W: every column of W has mean zero, and with it every output.
    _put(net, writer, weight - weight.mean(0), bias)


def _put(net: nn.Module, name: str, weight: Tensor, bias: Tensor | None) -> None:
    old: Any = net.get_submodule(name)
    rows, columns = weight.shape
    made = empty(
        nn.Linear,
        old.weight,
        in_features=columns,
        out_features=rows,
        bias=bias is not None,
    )
    check_finite(weight.to(old.weight.dtype), f"the weight of {name}")
    made.weight.copy_(weight)
    if bias is not None:
        made.bias.copy_(bias)
    made.requires_grad_(old.weight.requires_grad)
    replace(net, name, made)


@torch.no_grad()
def _check(model: Model, running: Any, net: nn.Module, folded: Folded) -> None:
    """Refuse a model whose first block computes something else than is assumed."""
    args, kwargs = running.calls[0][0]
    state = running.states[0]
    hidden = state.shape[-1]
    dense = model.net.get_submodule(folded.path)
    wanted = dense(state, *args, **kwargs)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    sliced = SlicedBlock(
        net.get_submodule(folded.path),
        hidden=hidden,
        width=hidden,
        enters=False,
        leaves=False,
    )
    # At full width and with A = B = I, a sliced block computes what the dense one does.
    for shortcut in (sliced.attention_shortcut, sliced.mlp_shortcut):
        shortcut.copy_(torch.eye(hidden))
    if args:
        raise Unsupported(f"{model.name} passes arguments to its blocks by position")
    if folded.centred:
        state = state - state.mean(-1, keepdim=True)
        wanted = wanted - wanted.mean(-1, keepdim=True)
    gap = (sliced(state, **kwargs) - wanted).float().norm() / wanted.float().norm()
    # Folding the norms changes the rounding only; the limit is 1e-2 of the norm in
    # float32. Another architecture differs by about its size, so that the limit stays
    # well below 1 in half precision, too. `not <` also refuses NaN.
    if not float(gap) < min(0.2, 30 * torch.finfo(state.dtype).eps ** 0.5):
        raise Unsupported(
            f"the blocks of {model.name} do not add an attention and an MLP, each "
            "behind one norm, to the hidden states, so that these cannot be rotated: "
            "choose a model of the LLaMA, Mistral, Qwen2 or OPT family"
        )


@torch.no_grad()
def _slice(
    net: nn.Module,
    running: Any,
    blocks: Sequence[Folded],
    width: int,
    centred: bool,
) -> None:
    """Slice block after block, on the inputs that the sliced ones before give."""
    hidden = running.states[0].shape[-1]
    before: SlicedBlock | None = None
    last = Tensor()
    for index, folded in enumerate(blocks):
        made = SlicedBlock(
            net.get_submodule(folded.path),
            hidden=hidden,
            width=width,
            enters=before is None,
            leaves=index == len(blocks) - 1,
        )
        replace(net, folded.path, made)
        # P, the directions of the stream in front of this block.
        first = directions(running.states, width)
        if before is None:
            # x P for centred embeddings x: (x - mean(x)) P = x (P - 1 m), with m the
            # mean of the rows of P, so that the table of embeddings stays as it is.
            entry = first - first.mean(0) if centred else first
            assert made.entry is not None
            made.entry.copy_(entry)
        else:  # what the block before wrote and passed on, in these directions
            before.mlp_shortcut.copy_(last.T @ first)
            _rotate_outputs(net, blocks[index - 1].writers[1], first)
        last = _slice_block(net, running, index, folded, made, first)
        settle(net, folded.path, made)  # its shortcut is new
        before = made
    assert before is not None
    # Behind the last block the stream has its full width again: the final norm and the
    # head stay as they are.
    before.mlp_shortcut.copy_(last.T)


def _slice_block(
    net: nn.Module,
    running: Any,
    index: int,
    folded: Folded,
    made: SlicedBlock,
    first: Tensor,
) -> Tensor:
    """Slice one block but for its outputs; advances the states.

    Args:
        net: The network, whose matrices in this block are replaced.
        running: The hidden states before the block, of full width.
        index: Number of the block.
        folded: Paths of the block's readers and writers.
        made: The block, in its place.
        first: The directions of its input, shape ``(hidden, width)``, float64.

    Returns:
        The directions before its MLP, as ``first``.
    """
    calls = [batch[index][1] for batch in running.calls]
    narrow = first.to(running.states[0])
    _rotate_inputs(net, folded.readers[0], first)
    # For a moment the halves write to the stream of full width.
    made.attention_shortcut = nn.Parameter(narrow.T.clone(), requires_grad=False)
    # The states in front of the MLP at full width: the shortcut P^T brings the narrow
    # stream back, and the output projection is not rotated yet.
    middle = [
        made.attend(x @ narrow, **call)
        for x, call in zip(running.states, calls, strict=True)
    ]
    second = directions(middle, made.width)  # P'
    # A = P^T P', (width, width).
    made.attention_shortcut = _parameter(first.T @ second, made.mlp_shortcut)
    _rotate_outputs(net, folded.writers[0], second)
    _rotate_inputs(net, folded.readers[1], second)
    narrow = second.to(running.states[0])
    # The same for the MLP: its real shortcut needs the directions of the next block,
    # and is filled in by `_slice`.
    shape = made.mlp_shortcut
    made.mlp_shortcut = nn.Parameter(narrow.T.clone(), requires_grad=False)
    running.states = [made.feed(y @ narrow) for y in middle]
    made.mlp_shortcut = shape
    return second


def _parameter(value: Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(value.to(like), requires_grad=like.requires_grad)


def directions(states: Sequence[Tensor], width: int) -> Tensor:
    """The strongest eigenvectors of the second moment of hidden states.

    Args:
        states: Batches of shape ``(..., hidden)``.
        width: Number of directions, from 1 to ``hidden``.

    Returns:
        Orthonormal columns, strongest first: float64, ``(hidden, width)``.
    """
    total: Tensor | float = 0.0
    for batch in states:
        rows = batch.flatten(0, -2).double()
        total = total + rows.T @ rows
    assert isinstance(total, Tensor)
    check_finite(total, "the second moment of the hidden states")
    # `eigh` sorts upwards. Every batch counts by its tokens: a sum, whose scale does
    # not change the eigenvectors.
    return torch.linalg.eigh(total)[1].flip(1)[:, :width].contiguous()


def _rotate_inputs(net: nn.Module, names: Sequence[str], columns: Tensor) -> None:
    for name in names:
        old: Any = net.get_submodule(name)
        bias = None if old.bias is None else old.bias
        _put(net, name, old.weight.double() @ columns, bias)


def _rotate_outputs(net: nn.Module, name: str, columns: Tensor) -> None:
    old: Any = net.get_submodule(name)
    bias = None if old.bias is None else columns.T @ old.bias.double()
    _put(net, name, columns.T @ old.weight.double(), bias)

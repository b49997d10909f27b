"""Compressed language models as folders that transformers opens without this project.

A network whose shapes are those of its architecture becomes a plain checkpoint; so
does one that only lacks blocks, with a true number of them in its configuration, if the
architecture then computes the same. A network with matrices rounded to 4 or 8 bits gets
the format of compressed-tensors where that format can express it. Any other keeps the
tensors as they are stored here, beside ``modeling_compressed.py``: the layers' own
code, and the class that puts them in place (transformers asks for
``trust_remote_code=True``).
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.core import BenchError, Model
from harness.toolkit import plain_checkpoint, quantized_checkpoint, saved_model

MODELING = "modeling_compressed.py"
CLASS = "CompressedForCausalLM"
Form = Literal["plain", "fewer blocks", "compressed-tensors", "own layers"]
# What a layer needs to be measured and saved here, and nowhere else.
_OURS = {"spec", "pack", "weights", "__getstate__"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written.

    Args:
        form: Which form the folder has.
        note: What its user has to know of the form, or an empty text.
    """

    form: Form
    note: str = ""


def write(
    model: Model,
    origin: Mapping[str, Any],
    folder: Path,
    card: str,
    *,
    plain: bool = False,
) -> Written:
    """Write a compressed language model for transformers.

    Args:
        model: A language model of transformers with its compressed network.
        origin: ``model``, ``options``, ``revision`` and ``shape``, as for
            ``saved_model.save``.
        folder: An empty folder, which gets weights, configuration, tokenizer, card.
        card: The model card in Markdown; the way to load the folder is added to it.
        plain: Write a plain checkpoint of the architecture, or nothing.

    Returns:
        Which form the folder has, and a note of it.

    Raises:
        BenchError: If the model is not a language model of transformers, or if it
            cannot be a plain checkpoint and has to be one.
    """
    net: Any = model.net
    base = type(net).__name__
    _transformers().utils.logging.disable_progress_bar()  # one shard, written at once
    if model.kind != "causal_lm" or not hasattr(_transformers(), base):
        raise BenchError(
            f"{model.name} is a {base}, and the Hugging Face form is for causal "
            "language models whose class transformers has; leave --format out"
        )
    # Experts of the architecture's own shapes go back to the layout of transformers.
    placed = {p: e["layer"] for p, e in saved_model.describe(net).layers.items()}
    changed = {path for path, layer in placed.items() if layer != "experts"}
    layers = {placed[path] for path in changed}
    note = ""
    if not layers and plain_checkpoint.has_its_shapes(net):
        form: Form = "plain"
        plain_checkpoint.write(net, folder)
    elif layers == {"dropped_block"} and plain_checkpoint.write_without(
        model, sorted(changed), folder
    ):
        form = "fewer blocks"
    elif plain:
        raise BenchError(
            f"{model.name} has layers ({', '.join(sorted(layers)) or 'other sizes'}) "
            "that no plain checkpoint has; --merge multiplies low-rank and rounded "
            "layers out"
        )
    elif "rounded" in layers:
        form, note = _rounded(model, origin, folder)
    else:
        form = "own layers"
        _own_layers(model, origin, folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card + _how_to_load(form, folder))
    return Written(form=form, note=note)


def _rounded(model: Model, origin: Mapping[str, Any], folder: Path) -> tuple[Form, str]:
    """Write a network with rounded layers; which form it got, and a note of it."""
    why = quantized_checkpoint.misfit(model.net)
    why = why or quantized_checkpoint.write(model, folder)
    if why:
        _own_layers(model, origin, folder)
        return "own layers", f"not in the format of compressed-tensors: {why}"
    if quantized_checkpoint.can_check():
        return "compressed-tensors", ""
    return "compressed-tensors", (
        "not opened here to compare its logits, since the package compressed-tensors "
        "is not installed"
    )


def _transformers() -> types.ModuleType:
    import transformers

    return transformers


def _own_layers(model: Model, origin: Mapping[str, Any], folder: Path) -> None:
    """Write our own form, and the code that opens it."""
    net: Any = model.net
    saved_model.save(model, origin, folder)
    form = json.loads((folder / saved_model.STRUCTURE).read_text())
    layers = [type(m) for m in net.modules() if "layer_name" in vars(type(m))]
    code = modeling(type(net).__name__, layers)
    (folder / MODELING).write_text(code, encoding="utf-8")
    config = plain_checkpoint.configuration(net)
    config.auto_map = {"AutoModelForCausalLM": f"modeling_compressed.{CLASS}"}
    config.architectures = [CLASS]
    # Transformers passes the configuration to the class before it reads any weight.
    config.compression = {k: form[k] for k in ("layers", "sizes", "same", "tied")}
    config.save_pretrained(folder)
    (folder / saved_model.STRUCTURE).unlink()  # the configuration has it
    net.generation_config.save_pretrained(folder)


def modeling(base: str, layers: list[type]) -> str:
    """The code of a folder: the layers, and a class that puts them in place.

    Args:
        base: Name of the architecture's class in transformers.
        layers: Classes of the compressed layers, each with its source file.

    Returns:
        Python that needs torch, transformers and safetensors alone.

    Raises:
        BenchError: If a layer uses a package that such a folder cannot count on.
    """
    imports: dict[str, None] = {}
    sources: dict[str, str] = {}
    for cls in dict.fromkeys(layers):
        _collect(cls, imports, sources)
    text = _TEMPLATE
    for name, value in {
        "BASE": base,
        "CLASS": CLASS,
        "IMPORTS": "\n".join(sorted(imports)),
        "LAYERS": "\n\n".join(sources.values()),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


_ALLOWED = ("torch", "typing", "collections", "warnings", "math", "dataclasses")


def _collect(thing: Any, imports: dict[str, None], sources: dict[str, str]) -> None:
    """Add a class or function, and before it everything that it uses."""
    name = thing.__name__
    if name in sources:
        return
    # The source is taken from the layers themselves, so that the written code cannot
    # differ from the code that was measured.
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    node = tree.body[0]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    if isinstance(node, ast.ClassDef):
        node.body = [
            part
            for part in node.body
            if not (isinstance(part, ast.FunctionDef) and part.name in _OURS)
        ]
    # Names that the code uses and that its module defines or imports; local names are
    # not in the module.
    home = vars(sys.modules[thing.__module__])
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {name}
    for word in sorted(used & home.keys()):
        if word == "layer":  # the decorator; the template has its own
            continue
        _need(word, home[word], imports, sources)
    # Added last, so that what it uses stands above it.
    sources[name] = ast.unparse(node)


def _need(
    word: str, value: Any, imports: dict[str, None], sources: dict[str, str]
) -> None:
    """Add what a name of a module stands for."""
    if isinstance(value, types.ModuleType):
        _check(value.__name__, word)
        alone = value.__name__ == word
        package, _, leaf = value.__name__.rpartition(".")
        # ``import math``; ``from torch import nn``; ``from torch.nn import functional
        # as F``.
        line = f"import {word}" if alone else f"from {package} import {leaf} as {word}"
        imports[line.removesuffix(f" as {leaf}")] = None
    elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        home = value.__module__ or ""
        if home.split(".")[0] in ("methods", "harness"):
            _collect(value, imports, sources)
        else:
            where = _public(word, value, home)
            _check(where, word)
            imports[f"from {where} import {word}"] = None
    elif hasattr(value, "__origin__") or getattr(value, "__module__", "") == "typing":
        imports.setdefault("from typing import Any, Literal", None)
    else:  # a constant
        sources.setdefault(word, f"{word} = {value!r}")


def _public(word: str, value: Any, home: str) -> str:
    """The module to import a thing from: torch hides where its own are."""
    for module in ("torch", "torch.nn.functional", "torch.nn"):
        if getattr(sys.modules[module], word, None) is value:
            return module
    return home


def _check(module: str, word: str) -> None:
    if module.split(".", maxsplit=1)[0] not in _ALLOWED:
        raise BenchError(
            f"a layer uses {word} of {module}, which a folder for transformers cannot "
            "count on; leave --format out"
        )


def _how_to_load(form: Form, folder: Path) -> str:
    """The last section of the model card."""
    own = form == "own layers"
    words = ", trust_remote_code=True" if own else ""
    lines = [
        "",
        "## How to load it",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("."{words})',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
        "",
    ]
    if own:
        digest = hashlib.sha256((folder / MODELING).read_bytes()).hexdigest()
        lines += [
            f"The layers are defined in `{MODELING}`, which transformers runs only",
            "with `trust_remote_code=True`. It needs torch, transformers and",
            f"safetensors. Its SHA-256 is `{digest}`.",
            "",
        ]
    elif form == "compressed-tensors":
        lines += [
            "The weights are in the format `pack-quantized` of compressed-tensors:",
            "transformers needs `pip install compressed-tensors` to open them.",
            "",
        ]
    return "\n".join(lines)


_TEMPLATE = '''"""@BASE@ with compressed layers; written by shrinkgrid.

The tensors in model.safetensors are those of the compressed layers: the file is as
small as the network. config.json says under "compression" which layer stands where.
"""

from __future__ import annotations

from pathlib import Path

@IMPORTS@
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import @BASE@

LAYERS = {}


def layer(name):
    """Register a class under the name that config.json has for it."""

    def register(cls):
        LAYERS[name] = cls
        return cls

    return register


@LAYERS@


class @CLASS@(@BASE@):
    """The network that the configuration describes."""

    def __init__(self, config):
        super().__init__(config)
        form = config.compression
        places = {**form["layers"], **form["sizes"]}
        for path in sorted(places, key=lambda p: p.count(".")):  # parents first
            entry = places[path]
            if "layer" in entry:
                make = LAYERS[entry["layer"]]
                if hasattr(make, "wrap"):  # around the module that stands there
                    old = self.get_submodule(path)
                    self.set(path, make.wrap(old, **entry["spec"]))
                else:
                    self.set(path, make(**entry["spec"]))
                continue
            old = self.get_submodule(path)
            if any(getattr(old, k, None) != v for k, v in entry.items() if k != "bias"):
                self.set(path, type(old)(**entry))
            elif "bias" in entry and entry["bias"] != (old.bias is not None):
                self.set(path, type(old)(**entry))
        for path, first in form["same"].items():
            self.set(path, self.get_submodule(first))

    def set(self, path, module):
        """Put a module at a dotted path."""
        parent, _, name = path.rpartition(".")
        setattr(self.get_submodule(parent), name, module)

    def fill(self, tensors):
        """Take the tensors of the file; shared ones are in it once."""
        form = self.config.compression
        tensors = {**tensors, **{n: tensors[f] for n, f in form["tied"].items()}}
        packed = [
            path
            for path, module in self.named_modules()
            if path in form["layers"] and hasattr(module, "unpack")
        ]
        for path in packed:
            head = f"{path}."
            own = {n[len(head) :]: t for n, t in tensors.items() if n.startswith(head)}
            self.get_submodule(path).unpack(own)
        def apart(name):
            return not any(name.startswith(f"{path}.") for path in packed)
        state = {n: t for n, t in tensors.items() if apart(n)}
        for name in self.state_dict():
            for path, first in form["same"].items():
                if name not in state and name.startswith(f"{path}."):
                    state[name] = tensors[first + name[len(path) :]]
        missing, unexpected = self.load_state_dict(state, strict=False, assign=True)
        wrong = [name for name in missing if apart(name)] + unexpected
        if wrong:
            raise ValueError(f"the file does not fit config.json: {wrong[:5]}")
        for name, first in form["tied"].items():
            if apart(name) and apart(first):
                owner, _, leaf = name.rpartition(".")
                source, _, value = first.rpartition(".")
                shared = getattr(self.get_submodule(source), value)
                setattr(self.get_submodule(owner), leaf, shared)

    @classmethod
    def from_pretrained(cls, name, *args, config=None, dtype=None, **options):
        """Load a folder, or a repository of the hub, into host memory.

        The numbers are those of the file; dtype casts the floating-point ones. Move the
        network with .to(device) afterwards.
        """
        folder = Path(name)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(name, revision=options.get("revision")))
        if config is None:
            config = cls.config_class.from_pretrained(folder)
        net = cls(config)
        # Copies: the addresses of a file's tensors change the last digits of products.
        stored = load_file(folder / "model.safetensors")
        net.fill({name: value.clone() for name, value in stored.items()})
        dtype = options.get("torch_dtype") if dtype is None else dtype
        if isinstance(dtype, torch.dtype):
            net = net.to(dtype)
        return net.eval()
'''

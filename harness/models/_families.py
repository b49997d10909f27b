"""How much of each family of language models the methods treat.

``families.json`` is the answer for every family of the installed transformers, at the
sizes of its default configuration. ``python -m harness.models._families`` writes it
again; what stands under ``settings`` and ``skip`` is written by hand and kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.core import BenchError

FILE = Path(__file__).with_name("families.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What methods treat of one family.

    Args:
        family: The ``model_type`` of its configuration.
        coverage: The share of its block weights that have a role, in [0, 1].
        dense: What has no role and stays dense, without the number of the block.
    """

    family: str
    coverage: float
    dense: tuple[str, ...]

    @property
    def treated(self) -> str:
        """Whether methods that read roles treat it: yes, in part, or no."""
        from harness.models._language import LEAST_COVERAGE

        if self.coverage >= LEAST_COVERAGE:
            return "yes"
        return "in part" if self.coverage else "no"


def known() -> list[Family]:
    """The families of ``families.json``, in the order of the alphabet."""
    rows = _file()["families"]
    return [Family(**{**row, "dense": tuple(row["dense"])}) for row in rows]


def skipped() -> dict[str, str]:
    """The families that are not listed, each with the reason."""
    return dict(_file()["skip"])


def settings() -> dict[str, dict[str, Any]]:
    """Family -> what its default configuration in transformers lacks."""
    return dict(_file()["settings"])


def release() -> str:
    """The version of transformers whose families these are."""
    return str(_file()["transformers"])


def walk(lacking: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Build every causal language model on torch's meta device, and look at its roles.

    Args:
        lacking: Family -> settings that its default configuration lacks.

    Yields:
        Name of a family, and what was found, or the error that building it raised.
        Encoders, which no method reads as a language model, are left out.
    """
    from transformers.models.auto import modeling_auto as auto

    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    for name in sorted(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            yield name, look(name, lacking.get(name, {}))
        except Exception as why:
            if not (isinstance(why, BenchError) and name in masked):
                yield name, why


def look(name: str, lacking: Mapping[str, Any]) -> Family:
    """What methods treat of one family.

    Args:
        name: The ``model_type`` of its configuration.
        lacking: What its default configuration lacks.

    Returns:
        The family.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from harness.models import _language
    from harness.toolkit import model_size

    # Shapes without memory: the largest families have hundreds of billions of weights.
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **lacking))
    model = _language.wrap(name, net, tokenizer=None)
    treated = model_size.treated(model)
    dense = {
        _place(path)
        for path, _ in model_size.block_weights(model)
        if path.rpartition(".")[0] not in treated
    }
    share = round(model_size.coverage(model) or 0.0, 4)
    return Family(family=name, coverage=share, dense=tuple(sorted(dense)))


def _place(path: str) -> str:
    """A parameter without its block, experts and their like as a whole.

    >>> _place("model.layers.3.mlp.experts.down_proj")
    'mlp.experts'
    >>> _place("model.altup_projections.0.weight")
    'altup_projections'
    >>> _place("model.layers.0.self_attn.q_a_proj.weight")
    'self_attn.q_a_proj'
    """
    outside, _, inside = re.split(r"\.(\d+)\.", path, maxsplit=1)
    parts = inside.removesuffix("weight").strip(".").split(".")
    return ".".join(parts[:2]) or outside.rpartition(".")[2]


def _file() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def refresh() -> None:
    """Write ``families.json`` again.

    Raises:
        BenchError: If a family cannot be built and is not under ``skip``.
    """
    old = _file()
    found = dict(walk(settings()))
    failed = {n: w for n, w in found.items() if isinstance(w, Exception)}
    if new := failed.keys() - old["skip"].keys():
        raise BenchError(*(f"{n}: {failed[n]}; name it in `skip`" for n in sorted(new)))
    rows = [asdict(one) for one in found.values() if isinstance(one, Family)]
    listed = ",\n  ".join(json.dumps(row) for row in rows)  # a line each
    head = old | {"transformers": version("transformers"), "families": []}
    text = json.dumps(head, indent=1).replace(
        '"families": []', f'"families": [\n  {listed}\n ]'
    )
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    refresh()

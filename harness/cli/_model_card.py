"""The model card of a folder that `save-model` writes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from results.storage.store import Store

MERGED = """
## Multiplied out

The {layers} compressed layers were multiplied out to dense matrices, so that any
program for the architecture reads this checkpoint. It has the size of the dense model:
{whole:,} bytes of weights, and not the {size:,} bytes of the network that was measured.
The logits differ from those of that network by {gap:.1g} of their norm, from rounding.
"""


def of_trial(store: Store, row: dict[str, Any], library: str) -> str:
    """What was done to which model, and what was measured of it, in Markdown.

    Args:
        store: Where the trial was run.
        row: Of the trial, with ``trial`` and ``model``.
        library: The hub's name of the library that loads the model.

    Returns:
        The card, with front matter; how to load the model is still to be added.
    """
    from harness.cli.publish import hub_task
    from results import publish
    from results.boards import trial_page
    from results.text.formats import markdown, number

    page = trial_page.trials(store, [row["trial"]])[row["trial"]]
    base = str(row["model"])
    lines = ["---", f"library_name: {library}", "tags: [compression, shrinkgrid]"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):  # a name of the hub, not a folder
        lines.append(f"base_model: {base}")
    achieved = "" if page["achieved"] is None else f", achieved {page['achieved']}"
    rows = publish.finished(store, [row["trial"]])
    lines.append(publish.as_yaml(publish.model_index(rows, hub_task)).rstrip())
    lines += [
        "---",
        "",
        f"# {markdown(page['model'])}, compressed by {markdown(page['method'])}",
        "",
        f"Ratio {page['ratio']} of {page['ratio_of']}{achieved}. "
        f"Trial `{page['trial']}`, seed {page['seed']}.",
        "",
        "| size | dense | compressed |",
        "| --- | ---: | ---: |",
    ]
    for name, (dense, compressed) in page["sizes"].items():
        if compressed is not None:
            before = "" if dense is None else f"{dense:,}"
            lines.append(f"| {name} | {before} | {compressed:,} |")
    lines += ["", f"Measured on {markdown(page['task'])}:", ""]
    lines += ["| metric | value | standard error | n |", "| --- | ---: | ---: | ---: |"]
    for one in page["metrics"]:
        error = "" if one["stderr"] is None else number(one["stderr"])
        count = "" if one["n"] is None else f"{one['n']:,}"
        named, value = markdown(one["metric"]), number(one["value"])
        lines.append(f"| {named} | {value} | {error} | {count} |")
    protocol = json.dumps(page["protocol_fields"], indent=1, ensure_ascii=False)
    lines += ["", "The protocol:", "", "```json", protocol, "```", ""]
    lines.append("The licence is that of the base model.")
    return "\n".join(lines) + "\n"

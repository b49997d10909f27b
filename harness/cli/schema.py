"""`schema`: the JSON Schema of grid files, for editors."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; by default it is printed.",
)
def schema(out: Path | None) -> None:
    """Print the JSON Schema of grid files, for editors.

    With it an editor completes names and options, shows what they mean, and marks
    errors. It is made of the plugins that are installed, also those that
    SHRINKGRID_PLUGINS names. Name it in the first line of a grid:
    `# yaml-language-server: $schema=grid.schema.json`.
    """
    from harness.cli._schema import schema as made
    from results.errors import StoreError

    text = json.dumps(made(), indent=1)
    if out is None:
        click.echo(text)
        return
    try:
        out.write_text(f"{text}\n", encoding="utf-8")
    except OSError as why:
        raise StoreError(f"{out} cannot be written: {why.strerror}") from why
    click.echo(f"wrote {out}", err=True)

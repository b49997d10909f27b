"""Every view of the page against the rules of axe-core, in a real browser."""

import asyncio
from importlib.resources import files

import pytest
from browser import in_browser
from live_browser import opened
from synthetic import grid, row

from results.boards import report

pytestmark = in_browser
TRIAL = "mlp-svd-0.4-1"
VIEWS = {
    "overview": ".grid",
    "board": ".answers",
    "board?method=nothing": ".empty",
    "tradeoff": "figure[data-drawn]",
    "curves": "figure[data-drawn]",
    "coverage": ".coverage",
    "papers": ".paper",
    f"trial/{TRIAL}": "[aria-label='Numbers']",
    "trial/mlp-magnitude-0.6-0": ".reason",
    "trial/curve": "figure[data-drawn]",
    f"compare?of={TRIAL},mlp-magnitude-0.4-1": "[aria-label='Numbers']",
    "compare": ".picks",
    "grid/synthetic": "figure[data-drawn]",
    "nowhere": "h1",
}
CHECK = """
for (const folded of document.querySelectorAll("details")) folded.open = true;
const found = await axe.run({ resultTypes: ["violations"] });
return found.violations.map(({ id, help, nodes }) =>
  `${id}: ${help}: ${nodes[0].html} ${nodes[0].failureSummary}`);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a report in which every view has something to show."""
    folder = tmp_path_factory.mktemp("accessible")
    store = grid(folder / "store")
    curve = [
        {"metric": "train_loss", "value": 1 / (i + 1), "goal": "min", "step": i}
        for i in range(5)
    ]
    sizes = {"params_dense": 8, "params": 4.0, "nonzero": 4.0, "bytes_dense": 32}
    layers = [
        {"layer": f"{block}.up", "role": "up", "block": block, "position": block}
        | {"bytes": 8.0 + block, **sizes}
        for block in range(3)
    ]
    store.append(row("curve", grid="other", measurements=curve), layers=layers)
    model = "LLaMA2-7B (as labelled in the README)"
    columns = {"method": "dense", "task": "wikitext2-2048", "ratio": 0.0}
    measured = {"perplexity": 5.0}
    store.append(row("paper", model=model, measured=measured, **columns))
    return report.write(store, folder / "report").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_no_view_breaks_a_rule(page, tmp_path, scheme, width):
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")

    async def checked():
        # Real time, not the virtual one of `browse`: axe-core waits for frames.
        found = {}
        async with opened("about:blank", tmp_path) as tab:
            dark = [{"name": "prefers-color-scheme", "value": scheme}]
            await tab.send("Emulation.setEmulatedMedia", features=dark)
            size = {"width": width, "height": 900, "deviceScaleFactor": 1}
            await tab.send("Emulation.setDeviceMetricsOverride", mobile=False, **size)
            await tab.send("Page.navigate", url=f"{page}#/nowhere")
            await tab.until("document.querySelector('main h1')")
            await tab.run(axe)
            for view, shown in VIEWS.items():
                # Else axe-core could check the view before, which is still shown.
                await tab.run("document.querySelector('main').replaceChildren();")
                await tab.run(f"location.hash = '#/{view}';")
                await tab.until(f'document.querySelector("main {shown}")')
                await tab.until("!document.querySelector('figure:not([data-drawn])')")
                broken = await tab.run(CHECK)
                if broken:
                    found[view] = broken
            return found, tab.said

    assert asyncio.run(checked()) == ({}, [])

"""What a phone and a printer show of a page, in a real browser: nothing is cut off."""

import asyncio

import pytest
from browser import in_browser
from live_browser import opened
from synthetic import NOON, grid, row

from results.boards import report

pytestmark = in_browser
OPTIONS = '{"finetune":{"batch_size":50,"epochs":12,"lr":0.02,"weight_decay":0.0005}}'
LONG = "a_method_of_a_long_name"
BOXES = """return [...document.querySelectorAll(".wide")]
  .filter((box) => box.scrollWidth > box.clientWidth + 1)
  .map((box) => box.ariaLabel ?? box.getAttribute("aria-label"));"""
LABELS = """return [...document.querySelectorAll(".labels_marks text")]
  .map((node) => node.closest("svg").getBoundingClientRect().right
    - node.getBoundingClientRect().right);"""
OTHERS = OPTIONS.replace("5", "7").replace("2", "3")
KEYS = ("grid", "trial", "method", "method_options", "model", "task", "task_options")
COMPARED = "compare?of=long-0.2,long-0.5"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut_off")
    store = grid(folder / "store")
    # Its last point is well before the end of the axis, which reaches 0.6.
    rows = [
        row(
            f"long-{ratio}",
            method=LONG,
            method_options=OPTIONS if ratio == 0.2 else OTHERS,
            ratio=ratio,
            identity=f'{{"method":[{{"name":"{LONG} {LONG} {ratio}"}}]}}',
        )
        for ratio in (0.2, 0.5)
    ]
    store.append_all(rows)
    store.record_plan(
        {"plan": "plan2", "planned_at": NOON, "ratio": made["ratio"], "seed": 0}
        | {key: made[key] for key in KEYS}
        for made in rows
    )
    return report.write(store, folder / "report").as_uri()


@pytest.mark.parametrize(
    ("media", "view", "shown", "script"),
    [
        ("screen", COMPARED, "[aria-label='Settings that differ']", BOXES),
        ("screen", "curves", "figure[data-drawn]", LABELS),
        ("print", "coverage", ".coverage", BOXES),
    ],
)
def test_nothing_is_cut_off(page, tmp_path, media, view, shown, script):
    width = 390 if media == "screen" else 700

    async def looked():
        async with opened("about:blank", tmp_path) as tab:
            size = {"width": width, "height": 900, "deviceScaleFactor": 1}
            await tab.send("Emulation.setDeviceMetricsOverride", mobile=False, **size)
            await tab.send("Emulation.setEmulatedMedia", media=media)
            await tab.send("Page.navigate", url=f"{page}#/{view}")
            await tab.until(f'document.querySelector("main {shown}")')
            await tab.until("!document.querySelector('figure:not([data-drawn])')")
            return await tab.run(script), tab.said

    found, said = asyncio.run(looked())
    assert said == []
    if script is LABELS:
        assert found
        assert min(found) >= 0
    else:
        assert found == []

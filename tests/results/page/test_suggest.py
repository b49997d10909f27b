"""What the page says of a wrong name in its address, in a real browser."""

from browser import browse, in_browser

from results.boards import report

pytestmark = in_browser
WRONG = {
    "board?metric=acuracy": ("metric", "acuracy", "accuracy"),
    "board?method=magnitud3": ("method", "magnitud3", "magnitude"),
    "board?sort=recovry": ("column", "recovry", "recovery"),
    "curves?task=digit": ("task", "digit", "digits"),
    "tradeoff?cost=prams": ("cost", "prams", "params"),
    "coverage?grid=sinthetic": ("grid", "sinthetic", "synthetic"),
    "grid/sinthetic": ("grid", "sinthetic", "synthetic"),
    "papers/basis_sharing": ("table", "basis_sharing", "basis_sharing_1"),
    "tradeof": ("page", "tradeof", "tradeoff"),
}


def test_a_wrong_name_in_the_address_is_named_with_the_nearest_right_one(
    stored, tmp_path
):
    out, console = browse(
        report.page(stored),
        f"""const {{ suggestion }} = await import("page/suggest.js");
        const said = {{}}, wrong = {list(WRONG)};
        for (const address of wrong) {{
          location.hash = `#/${{address}}`;
          await drawn("main h1");
          said[address] = document.querySelector("main").innerText;
        }}
        location.hash = "#/board?metric=acuracy";
        await pause();
        document.querySelector(".empty a").click();
        await pause();
        return {{ said, at: location.hash,
          short: suggestion("ppl", ["loss", "perplexity"]),
          none: suggestion("xyz", ["loss"]) }};""",
        tmp_path,
    )

    assert (out["errors"], console) == ([], "")
    for address, (kind, name, near) in WRONG.items():
        said = f"No {kind} is called \u201c{name}\u201d. Did you mean {near}?"
        assert said in out["said"][address]
    assert out["at"] == "#/board?metric=accuracy"
    assert (out["short"], out["none"]) == ("perplexity", None)

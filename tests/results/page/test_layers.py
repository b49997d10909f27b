"""The map of the layers of a network, in a real browser."""

from browser import browse, in_browser
from synthetic import row

from results.boards import report

pytestmark = in_browser


def test_a_network_has_a_map_and_the_address_says_of_what(empty, tmp_path):
    sizes = {"params_dense": 10, "params": 5.0, "nonzero": 5.0, "bytes_dense": 40}
    blocks = [
        {"layer": f"{block}.{role}", "role": role, "block": block, "position": i}
        | {"rank": 2 + block, "bytes": 20.0}
        for i, (block, role) in enumerate(
            (block, role) for block in range(3) for role in ("query", "up")
        )
    ]
    convs = [
        {"layer": f"conv{i}", "role": "conv", "position": i, "bytes": 10.0 * i}
        for i in range(3)
    ]
    empty.append(row("blocks"), layers=[one | sizes for one in blocks])
    empty.append(row("convs"), layers=[one | sizes for one in convs])

    out, console = browse(
        report.page(empty),
        """await drawn("figure svg[role=img]");
        const seen = () => ({ titles: all("figcaption"), address: location.hash,
          cells: document.querySelectorAll("svg .mark-rect.role-mark path").length,
          said: document.querySelector("figure svg").getAttribute("aria-label"),
          options: all("#map option"), table: all("details th, details td") });
        const blocks = seen();
        const choice = document.getElementById("map");
        choice.value = "kept";
        choice.dispatchEvent(new Event("change"));
        await pause();
        await drawn("figure svg[role=img]");
        const kept = seen();
        location.hash = "#/trial/convs";
        await pause();
        await drawn("figure svg[role=img]");
        return { blocks, kept, convs: seen() };""",
        tmp_path,
        at="#/trial/blocks",
    )

    assert (out.get("failed"), out["errors"], console) == (None, [], "")
    assert out["blocks"]["titles"] == ["Rank by block and role"]
    assert out["blocks"]["options"] == ["Rank", "Parameters kept", "Bits per weight"]
    assert out["blocks"]["cells"] == 6
    assert out["blocks"]["said"] == "Rank of 6 layers of svd: from 2 to 4."
    assert out["blocks"]["table"][:6] == ["Block", "query", "up", "0", "2", "2"]
    assert out["kept"]["address"] == "#/trial/blocks?map=kept"
    assert out["kept"]["titles"] == ["Parameters kept by block and role"]
    # Of three convolutions only the bytes differ: 80, 160 bits of 10 weights.
    assert out["convs"]["titles"] == ["Bits per weight by layer"]
    bits = ["conv0", "0", "conv1", "8", "conv2", "16"]
    assert out["convs"]["table"] == ["Layer", "Bits per weight", *bits]

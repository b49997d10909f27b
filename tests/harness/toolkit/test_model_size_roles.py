"""Which weights of a language model count as its blocks, and which have a role."""

import pytest
import torch
from torch import nn

from harness.core import Model
from harness.toolkit import model_size


def language_model(blocks: int = 2, **roles: str) -> Model:
    """Blocks of two matrices of 32 weights; embeddings and a head beside them."""
    layers = [
        nn.ModuleDict(
            {
                "a": nn.Linear(8, 4),
                "b": nn.Linear(8, 4),
                "norm": nn.LayerNorm(8),
                "positions": nn.Embedding(5, 8),
            }
        )
        for _ in range(blocks)
    ]
    parts = {"embed": nn.Embedding(9, 8), "layers": nn.ModuleList(layers)}
    net = nn.ModuleDict(parts | {"head": nn.Linear(8, 9)})
    made = {rf"layers\.\d+\.{name}": role for name, role in roles.items()}
    return Model(name="m", net=net, kind="causal_lm", roles=made, example=dict)


def test_block_weights_are_the_matrices_of_blocks_and_each_shared_one_once():
    model = language_model()
    layers = model.net["layers"]
    layers[1]["b"].weight = layers[0]["a"].weight

    found = [name for name, _ in model_size.block_weights(model)]

    assert found == ["layers.0.a.weight", "layers.0.b.weight", "layers.1.a.weight"]
    assert model_size.ratio_base(model) == 3 * 32


@pytest.mark.parametrize("tower", ["vision_tower", "audio_tower"])
def test_a_tower_that_reads_images_or_sound_is_no_part_of_a_block(tower):
    model = language_model()
    net = nn.ModuleDict({"language_model": model.net, tower: language_model().net})
    whole = Model(name="m", net=net, kind="causal_lm", roles={}, example=dict)

    names = [name for name, _ in model_size.block_weights(whole)]

    assert len(names) == 4
    assert all(name.startswith("language_model.") for name in names)


def test_a_ratio_of_another_model_is_a_share_of_the_matrices_with_a_role():
    net = nn.ModuleDict(
        {"a": nn.Linear(8, 4), "gru": nn.GRU(3, 5), "b": nn.Linear(8, 4)}
    )
    roles = {"a": "linear", "gru": "recurrent"}
    model = Model(name="m", net=net, kind="classifier", roles=roles, example=dict)

    # Biases do not count; a GRU has two matrices of 3 gates, 5 x 3 and 5 x 5.
    matrices = {name for name, _ in model.modules(*model_size.LINEARS)}
    assert model_size.ratio_base(model) == 32 + ("gru" in matrices) * 15 * (3 + 5)


def test_coverage_is_the_share_of_block_weights_with_a_role():
    assert model_size.coverage(language_model(a="query")) == 0.5
    assert model_size.coverage(language_model(a="query", b="value")) == 1
    assert model_size.coverage(language_model()) == 0
    assert model_size.coverage(language_model(blocks=0, a="query")) == 0
    other = Model(
        name="m", net=nn.Linear(2, 2), kind="classifier", roles={}, example=dict
    )
    assert model_size.coverage(other) is None
    assert model_size.treated(language_model(a="query")) == {"layers.0.a", "layers.1.a"}


def test_a_single_role_has_one_matrix_in_each_block():
    assert model_size.single_roles(language_model(a="query", b="value")) == {
        "query",
        "value",
    }
    assert model_size.single_roles(language_model(a="query", b="query")) == set()
    assert model_size.single_roles(language_model()) == set()
    lacking = language_model(a="query", b="value")
    del lacking.net["layers"][1]["b"]
    assert model_size.single_roles(lacking) == {"query"}


def test_counts_are_of_tensors_and_of_what_layers_store():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.register_buffer("codes", torch.tensor([0, 3, 0], dtype=torch.uint8))

        def weights(self) -> dict[str, torch.Tensor]:
            return {"scale": self.scale, "codes": self.codes}

    net = nn.ModuleDict({"packed": Packed(), "plain": nn.Linear(2, 1, bias=False)})
    nn.init.zeros_(net["plain"].weight)

    found = model_size.count(net)

    # Elements, and not zero.
    assert sorted(found.numbers.values()) == [(2, 0), (2, 2), (3, 1)]
    assert [len(found.held[m]) for m in (net, *net.values())] == [0, 2, 1]

"""Parameters, non-zeros, bytes and multiply-adds against hand-worked layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.core import Model
from harness.models.gru_seq2seq import GruSeq2Seq
from harness.toolkit import model_size


def wrap(net: nn.Module, **example: torch.Tensor) -> Model:
    return Model(
        name="m", net=net.eval(), kind="classifier", roles={}, example=lambda: example
    )


@pytest.mark.parametrize(
    ("net", "shape", "macs"),
    [
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.Linear(7, 5, bias=False), (2, 4, 7), 2 * 4 * 7 * 5),
        # 16 filters of 3 x 3 x 3 at 30 x 30 places (no padding), one image.
        (nn.Conv2d(3, 16, 3), (1, 3, 32, 32), 16 * 27 * 30 * 30),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 10, 10), 8 * 9 * 100),
        (nn.Conv2d(4, 6, 1, stride=2), (1, 4, 8, 8), 4 * 6 * 16),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (1, 4), 16 + 8),
    ],
)
def test_macs_of_a_layer_are_those_worked_by_hand(net, shape, macs):
    assert model_size.macs(wrap(net, input=torch.zeros(shape))) == macs


def test_macs_of_attention_are_those_that_torch_counts(monkeypatch):
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    attention = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    example = torch.randn(1, 10, 16)
    torch_counts = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch_counts:
        attention(example)

    found = model_size.macs(wrap(attention, src=example))

    # projections 4 * 16^2, two products of 10 x 10 over 16, feed-forward 2 * 16 * 32
    by_hand = 10 * (4 * 16 * 16 + 2 * 10 * 16 + 2 * 16 * 32)
    assert found == torch_counts.get_total_flops() // 2 == by_hand


def test_a_shared_weight_counts_once_and_a_masked_one_still_counts():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].weight[0].zero_()

    size = model_size.size(wrap(net, input=torch.zeros(1, 4)))

    assert (size.params, size.nonzero, size.macs) == (16, 12, 32)


def test_bytes_are_those_of_the_written_file(tmp_path):
    from safetensors.torch import save_file

    net = nn.Linear(30, 20)
    save_file(net.state_dict(), tmp_path / "a.safetensors")

    size = model_size.size(wrap(net, input=torch.zeros(1, 30)))

    assert size.bytes == (tmp_path / "a.safetensors").stat().st_size


def with_roles(net: nn.Module, **roles: str) -> Model:
    """A classifier whose modules have the given roles."""
    return Model(name="m", net=net, kind="classifier", roles=roles, example=dict)


def counts(**changes: int) -> model_size.Size:
    return model_size.Size(
        **({"params": 0, "nonzero": 0, "bytes": 0, "macs": 0} | changes)
    )


@pytest.mark.parametrize(
    ("ratio_of", "share"),
    [
        ("weights", 0.25),  # 8 of the 32 weights with a role
        ("zeros", 0.5),  # 16 of them are zero
        ("parameters", 0.2),  # 8 of all 40
        ("none", 0.2),
        ("macs", 0.75),
        ("tracked_weights", None),
    ],
)
def test_what_was_removed_is_a_share_of_what_the_ratio_speaks_of(ratio_of, share):
    dense = with_roles(nn.ModuleDict({"a": nn.Linear(8, 4)}), a="linear")
    sizes = (
        counts(params=40, nonzero=40, macs=400),
        counts(params=32, nonzero=24, macs=100),
    )

    found = model_size.achieved(ratio_of, dense, dense.net, sizes)
    assert found == (None if share is None else pytest.approx(share))


def test_all_of_the_parameters_can_be_removed():
    dense = with_roles(nn.ModuleDict({"a": nn.Linear(8, 4)}), a="linear")
    sizes = (counts(params=40), counts())

    assert model_size.achieved("parameters", dense, dense.net, sizes) == 1


def test_of_nothing_no_share_was_removed():
    empty = with_roles(nn.ModuleDict({"a": nn.Linear(8, 4)}))
    sizes = (counts(), counts())

    assert model_size.achieved("weights", empty, empty.net, sizes) == 0
    assert model_size.achieved("parameters", empty, empty.net, sizes) is None
    assert model_size.achieved("bits", empty, empty.net, sizes) == 0


def test_bits_are_saved_in_the_matrices_that_changed_and_have_a_role():
    net = nn.ModuleDict({n: nn.Linear(8, 4, bias=False) for n in ("a", "b", "c", "d")})
    net["group"] = nn.Sequential(nn.Linear(8, 4))  # has no parameter of its own
    roles = dict.fromkeys(("a", "b", "d", "group"), "linear")
    dense = with_roles(net, **roles)
    small = copy.deepcopy(net)
    small["a"] = nn.Linear(8, 4, bias=False).to(torch.bfloat16)  # 128 bytes to 64
    small["c"] = nn.Linear(1, 1)  # without a role
    small["group"] = nn.Sequential(nn.Linear(1, 1))
    del small["d"]

    assert model_size.achieved("bits", dense, small, (counts(), counts())) == 0.5
    small["b"] = nn.Linear(8, 4, bias=True)  # another tensor: 128 bytes to 144
    assert model_size.share_of_bits(dense, small) == pytest.approx(1 - 208 / 256)
    assert model_size.share_of_bits(dense, copy.deepcopy(net)) == 0


def test_a_layer_changed_also_where_one_of_its_tensors_stayed_as_it_was():
    dense = with_roles(nn.ModuleDict({"a": nn.Linear(8, 4)}), a="linear")
    small = copy.deepcopy(dense.net)
    small["a"].weight = nn.Parameter(small["a"].weight.to(torch.bfloat16))

    # 128 bytes of weights and 16 of biases to 64 and 16.
    assert model_size.share_of_bits(dense, small) == pytest.approx(64 / 144)


def test_an_input_that_is_no_tensor_and_an_average_of_its_own_are_respected():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
            return sum(self.fc(x) for _ in range(times))

    net = Scaled()
    model = Model(
        name="m",
        net=net,
        kind="classifier",
        roles={},
        example=lambda: {"x": torch.zeros(1, 3), "times": 2},
    )

    assert model_size.macs(model) == 12
    net.average_macs = lambda: 7.9
    assert model_size.macs(model) == 7


@pytest.mark.parametrize(
    ("needs", "ratio_of", "reads"),
    [
        ({"linears", "calibration"}, "weights", True),
        ({"calibration"}, "zeros", True),
        ({"calibration"}, "weights", False),
        (set(), "none", False),
    ],
)
def test_methods_that_need_linears_or_mask_weights_read_roles(needs, ratio_of, reads):
    assert model_size.reads_roles({"needs": needs, "ratio_of": ratio_of}) == reads


def test_bits_of_a_language_model_are_a_share_of_all_its_block_weights():
    # Matrices of 128 and 256 bytes in a block; the first is stored in half of that.
    sizes = {"a": 4, "b": 8}
    block = nn.ModuleDict(
        {n: nn.Linear(8, size, bias=False) for n, size in sizes.items()}
    )
    net = nn.ModuleDict({"layers": nn.ModuleList([block])})
    roles = {r"layers\.0\.a": "query"}
    dense = Model(name="m", net=net, kind="causal_lm", roles=roles, example=dict)
    small = copy.deepcopy(net)
    small["layers"][0]["a"] = nn.Linear(8, 4, bias=False).to(torch.bfloat16)

    assert model_size.share_of_bits(dense, small) == pytest.approx(64 / 384)


def test_macs_of_a_recurrent_layer_are_those_of_its_matrices_whatever_cudnn_does():
    # 7 steps; three matrices of 5 x 3 for the input and three of 5 x 5 for the state.
    enabled = []

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 5)

        def forward(self, steps):
            enabled.append(torch.backends.cudnn.enabled)
            return self.gru(steps)

    model = Model(
        name="gru",
        net=Recurrent(),
        kind="seq2seq",
        roles={},
        example=lambda: {"steps": torch.zeros(7, 1, 3)},
    )
    before = torch.backends.cudnn.enabled

    assert model_size.macs(model) == 7 * 3 * (5 * 3 + 5 * 5)
    assert enabled == [False]
    assert torch.backends.cudnn.enabled == before


@pytest.mark.gpu
def test_macs_are_the_same_on_a_gpu():
    shape = {"source_words": 30, "target_words": 40}
    model = GruSeq2Seq(layers=2, units=16).build(shape, 0)
    here = model_size.macs(model)
    model.net.cuda()

    assert here > 0
    assert model_size.macs(model) == here


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_macs_of_a_network_that_reads_images_do_not_depend_on_its_dtype(dtype):
    model = Model(
        name="conv",
        net=torch.nn.Conv2d(3, 4, 3).to(dtype),
        kind="classifier",
        roles={},
        example=lambda: {"input": torch.zeros(1, 3, 8, 8)},
    )

    # 36 places x 4 filters x 27 weights.
    assert model_size.macs(model) == 36 * 4 * 27


def test_words_stay_whole_numbers_whatever_the_dtype_of_the_network():
    words = torch.zeros(1, 6, dtype=torch.long)
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)).to(torch.bfloat16)

    assert model_size.macs(wrap(net, input=words)) == 6 * 3 * 2

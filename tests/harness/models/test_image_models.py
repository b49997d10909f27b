"""Image classifiers: sizes as published code counts them, roles, same seed same net."""

import pytest
import torch

from harness.core import BenchError, Model
from harness.registry import find
from harness.toolkit import model_size

MNIST = {"classes": 10, "input": [1, 28, 28]}
DIGITS = {"classes": 10, "input": [1, 8, 8]}
C10 = {"classes": 10, "input": [3, 32, 32]}
C100 = {"classes": 100, "input": [3, 32, 32]}

# Parameters and MACs, counted from the public definitions: compstruct/DropBack,
# HWAI-TUDa/Class-Aware-Pruning, TUDa-HWAI/eece; ResNet-20 and 56 also by Torch-Pruning
# and HRankPlus (0.27M, 0.85M / 125.49M); LeNet-5 by Caffe; MACs None: not published.
SIZES = [
    ("mlp", {}, MNIST, 89_610, 784 * 100 + 100 * 100 + 100 * 10),
    ("mlp", {"hidden": [300, 100]}, MNIST, 266_610, 784 * 300 + 300 * 100 + 1000),
    ("lenet5", {}, MNIST, 431_080, 2_293_000),
    ("vgg_s", {}, C10, 14_987_200, None),
    ("vgg16", {}, C10, 14_991_946, 313_463_808),
    ("vgg19", {}, C100, 20_086_692, 398_182_400),
    ("vgg_small", {}, C10, 14_031_754, 616_966_144),
    ("vgg_small", {}, C100, 14_124_004, 617_058_304),
    # By hand: convolutions 1-16-16-32-32-64-64 on 8 x 8 pixels, no biases, and norms;
    # 64 -> 128 -> 128 -> 10 behind 1 pixel; 8 * 8, 4 * 4 and 2 * 2 pixels for MACs.
    (
        "vgg_small",
        {"width": 0.125},
        {"classes": 10, "input": [1, 8, 8]},
        9 * (16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
        + 2 * 2 * (16 + 32 + 64)
        + (64 * 128 + 128 + 2 * 128)
        + (128 * 128 + 128 + 2 * 128)
        + (128 * 10 + 10),
        9 * (64 * (16 + 256) + 16 * (512 + 1024) + 4 * (2048 + 4096))
        + 64 * 128
        + 128 * 128
        + 1280,
    ),
    ("alexnet", {}, C10, 44_428_106, 697_519_808),
    ("resnet20", {}, C10, 269_722, 40_551_040),
    ("resnet56", {}, C10, 853_018, 125_485_696),
    ("resnet50_cifar", {}, C10, 23_520_842, 1_297_829_888),
    ("densenet", {}, C10, 1_020_634, None),
    ("densenet", {"layers_per_block": 32}, C10, 6_981_994, None),
    ("densenet", {"layers_per_block": 32, "growth": 24}, C10, 27_253_738, None),
    ("wide_resnet", {}, C10, 36_479_194, None),
]
SMALL = {
    "wide_resnet": {"depth": 10, "widen": 1},
    "densenet": {"layers_per_block": 2, "growth": 4},
}
NAMES = sorted({name for name, *_ in SIZES} | {"digits_convnet"})


def on_meta(name: str, options: dict, shape: dict) -> Model:
    plugin = find("model", name).build(options)
    with torch.device("meta"):
        net = plugin.layers(shape).eval()
    zeros = torch.zeros(1, *shape["input"], device="meta")
    return Model(
        name=name, net=net, kind="classifier", roles=plugin.roles,
        example=lambda: {"images": zeros},
    )  # fmt: skip


@pytest.mark.parametrize(("name", "options", "shape", "params", "macs"), SIZES)
def test_a_network_has_the_published_size(name, options, shape, params, macs):
    model = on_meta(name, options, shape)
    assert sum(p.numel() for p in model.net.parameters()) == params
    if macs is not None:
        assert model_size.macs(model) == macs


@pytest.mark.parametrize("name", NAMES)
def test_the_roles_name_every_matrix_and_the_declared_kinds(name):
    shape = MNIST if name == "lenet5" else C10
    model = on_meta(name, SMALL.get(name, {}), shape)
    for path, module in model.net.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim > 1:
            assert model.role(path) is not None, path
    roles = {model.role(path) for path, _ in model.modules()}
    gives = find("model", name).facts["gives"]
    assert ("convs" in gives) == ("conv" in roles)
    assert ("linears" in gives) == ("linear" in roles)
    assert ("exits" in gives) == ("exit_point" in roles)
    exits = [path for path, _ in model.modules("exit_point")]
    assert all("." not in path for path in exits)  # a Stack is cut between children


@pytest.mark.parametrize("name", ["mlp", "digits_convnet", "resnet20", "lenet5"])
def test_same_seed_same_network_and_logits_for_each_class(name):
    shape = MNIST if name == "lenet5" else DIGITS
    plugin = find("model", name).build({})
    first, again, other = (plugin.build(shape, seed) for seed in (3, 3, 4))
    states = [m.net.state_dict() for m in (first, again, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])
    assert first.net(**first.example()).shape == (1, 10)
    assert not first.net.training


def test_building_leaves_the_global_random_stream_alone():
    before = torch.get_rng_state()
    find("model", "mlp").build({}).build(DIGITS, 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("init", "gain"), [("lecun_normal", 1), ("he_normal", 2)])
def test_normal_initial_weights_have_the_variance_of_their_rule(init, gain):
    net = find("model", "mlp").build({"init": init}).build(MNIST, 0).net
    assert net.fc1.weight.var().item() == pytest.approx(gain / 784, rel=0.02)
    assert not net.fc1.bias.any()


@pytest.mark.parametrize(("name", "shape"), [("lenet5", DIGITS), ("vgg16", DIGITS)])
def test_images_that_are_too_small_are_refused(name, shape):
    with pytest.raises(BenchError, match=r"images of 8 x 8 are too small"):
        find("model", name).build({}).build(shape, 0)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mlp", {"hidden": [0]}, r"hidden is \[0\]"),
        ("wide_resnet", {"depth": 27}, "depth is 27"),
        ("densenet", {"growth": 0}, "growth 0"),
        ("digits_convnet", {"widths": [1, 1, 1, 0]}, "widths is"),
        ("mlp", {"recipe": {"epochs": 0}}, "epochs is 0; it must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused_with_their_value(name, options, words):
    with pytest.raises(BenchError, match=words):
        find("model", name).build(options)

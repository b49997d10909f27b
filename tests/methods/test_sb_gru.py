"""The stick-breaking GRU as a method: training, resuming, ratios, files, mistakes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paths import ROOT, SUPPORT
from safetensors import safe_open

from harness.core import BenchError, Context, Unsupported
from harness.models.gru_seq2seq import GruSeq2Seq
from harness.options import build
from harness.planning.configured_plugin import unmet
from harness.registry import find
from harness.toolkit import model_size, saved_model
from harness.toolkit.decoding import Search, translate
from harness.toolkit.recipe import Recipe
from harness.toolkit.seq2seq_training import Buckets
from harness.toolkit.sequences import Pairs, ParallelText, Vocabulary, pad
from methods._kernels.variational.fixed_point import FixedPoint
from methods._kernels.variational.posterior import make_variational, total_kl
from methods.magnitude import Magnitude
from methods.round_to_nearest import RoundToNearest
from methods.sb_gru import SbGru, Variational, treated
from methods.svd import Svd

RECIPE = Recipe(epochs=3, batch_size=8, optimizer="adam", lr=0.01, keep="best")
VARIANTS = ("gaussian", "sticks", "full")


def pairs(n, seed):
    rng = torch.Generator().manual_seed(seed)
    source = [
        torch.randint(4, 12, (int(k),), generator=rng)
        for k in torch.randint(1, 6, (n,), generator=rng)
    ]
    return Pairs(source=source, target=[s.flip(0) for s in source])


def context(tmp_path=None, treat="recurrent", units=12):
    words = Vocabulary(words=tuple("abcdefghijkl"))
    text = ParallelText(
        source=words, target=words, train=pairs(48, 0), dev=pairs(12, 1)
    )
    family = GruSeq2Seq(layers=2, units=units, treat=treat, recipe=RECIPE)
    model = family.build(text.shape, 0)
    return Context(
        model=model,
        seed=0,
        device=torch.device("cpu"),
        data=text,
        scratch=tmp_path,
    )


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.state_dict().values()])


def outputs(net, ctx):
    return net(pad(ctx.data.dev.source), pad(ctx.data.dev.target))


def curve(ctx, metric="validation_loss"):
    return [m.value for m in ctx.recorded if m.metric == metric]


@pytest.fixture(scope="module")
def trained():
    ctx = context()
    return SbGru().fit(ctx.model, ctx)


def test_it_goes_with_this_model_and_a_task_that_gives_training_data():
    plugins = (find("method", "sb_gru"), find("model", "gru_seq2seq"))
    assert unmet(*plugins, find("task", "hsk_gloss")) is None


@pytest.mark.parametrize("variant", ["plain", *VARIANTS])
def test_ratio_0_is_the_dense_network(variant):
    ctx = context()
    method = SbGru(variant=variant, recipe=Recipe(epochs=1))
    fitted = method.fit(ctx.model, ctx)
    net = method.compress(fitted, 0.0, ctx)
    assert torch.equal(outputs(net, ctx), outputs(ctx.model.net, ctx))


def test_a_recipe_in_part_changes_the_recipe_of_the_dense_network():
    method = find("method", "sb_gru").build({"recipe": {"epochs": 2}})

    assert method.recipe_for(RECIPE) == replace(RECIPE, epochs=2)
    assert SbGru().recipe_for(RECIPE) == RECIPE
    with pytest.raises(BenchError, match="Did you mean 'epochs'"):
        find("method", "sb_gru").build({"recipe": {"epoch": 2}})


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_and_repeats_itself(variant):
    runs = []
    for _ in range(2):
        ctx = context()
        before = weights(ctx.model.net)
        fitted = SbGru(variant=variant).fit(ctx.model, ctx)
        assert torch.equal(weights(ctx.model.net), before)
        runs.append((weights(fitted.net), curve(ctx)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert len(runs[0][1]) == 3
    assert runs[0][1][-1] < runs[0][1][0]


def test_the_trained_network_is_that_of_the_posterior_means(trained):
    names = [name for name, _ in context().model.modules("linear")]
    assert list(trained.matrices) == names
    for name, matrix in trained.matrices.items():
        assert torch.equal(trained.net.get_submodule(name).weight, matrix.mean)
        assert (matrix.variance > 0).all()
        assert (matrix.utility < 1).all()


def objective(ctx, net, **options):
    """What a training of 8 epochs in batches of 8 sentences minimises."""
    method = SbGru(**options)
    layers = make_variational(net, treated(ctx.model), method._prior())
    buckets = Buckets(ctx.data.train, 8)
    return Variational(ctx=ctx, buckets=buckets, method=method, layers=layers, epochs=8)


def test_what_is_minimised_is_the_evidence_lower_bound_by_hand():
    # One batch, no dropout: NLL a word, plus KL over all target words of training.
    ctx = context(treat="candidate")
    net = ctx.dense()
    torch.manual_seed(0)
    goal = objective(ctx, net, kl_weight=0.5, warmup=4.0)
    layers = goal.layers
    assert len({id(layer.sticks) for layer in layers}) == 1  # one matrix, two halves
    goal.before_epoch(net, 1)
    batch = goal.buckets.batch(torch.tensor([0]))
    net.eval()  # the mean weights: only the sticks are drawn
    torch.manual_seed(5)
    found = goal.loss(net, batch).item()
    torch.manual_seed(5)
    divergence = total_kl(layers).item()
    words = sum(len(t) + 1 for t in ctx.data.train.target)
    nll, count = net.log_loss(*batch)
    # Epoch 1 of a warm-up of 4, at half weight: an eighth of the divergence.
    expected = nll.item() / count + 0.125 * divergence / words
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("cooling", "seen"),
    [
        # Half of 8 epochs: a quarter of the way, as an exponent, in each of four.
        (0.5, [1.0, 0.25**0.25, 0.5, 0.25**0.75, 0.25, 0.25]),
        (1.0, [0.25 ** (epoch / 8) for epoch in range(6)]),
        (0.0, [0.25] * 6),
    ],
)
def test_indicators_cool_down_over_a_share_of_the_training(cooling, seen):
    ctx = context(treat="candidate")
    net = ctx.dense()
    goal = objective(ctx, net, cooling=cooling, coldest=0.25)
    found = []
    for epoch in range(6):
        goal.before_epoch(net, epoch)
        found.append(goal.layers[0].temperature)
    assert found == pytest.approx(seen)


@pytest.mark.parametrize("variant", ["plain", "full"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75, 0.85])
def test_the_ratio_is_reached_and_the_file_translates_alike(variant, ratio, tmp_path):
    ctx = context(units=32)
    method = SbGru(variant=variant, recipe=Recipe(epochs=1))
    fitted = method.fit(ctx.model, ctx)
    net = method.compress(fitted, ratio, ctx)
    (achieved,) = curve(ctx, "achieved_ratio")
    assert ratio <= achieved <= ratio + 0.05
    (bits,) = curve(ctx, "treated_bits_per_weight")
    assert bits == pytest.approx(32 * (1 - achieved))

    shape = dict(ctx.data.shape)
    options = {"layers": 2, "units": 32, "treat": "recurrent"}
    origin = {"model": "gru_seq2seq", "options": options, "revision": "1"}
    compressed = ctx.model.with_net(net)
    saved_model.save(compressed, {**origin, "shape": shape}, tmp_path)
    again = saved_model.load(tmp_path).net
    assert torch.equal(outputs(again, ctx), outputs(net, ctx))
    search = Search(beam=2, max_length=8)
    sources = ctx.data.dev.source
    assert translate(again, sources, search) == translate(net, sources, search)
    written = (tmp_path / "model.safetensors").stat().st_size
    assert written == saved_model.saved_bytes(net) == model_size.size(compressed).bytes
    assert written < saved_model.saved_bytes(ctx.model.net)


def test_float32_s_own_precision_changes_no_translation(trained):
    ctx = context()
    net = SbGru(cutoff=0.0).compress(trained, 0.25, ctx)
    assert torch.allclose(outputs(net, ctx), outputs(trained.net, ctx), atol=1e-5)


def test_cut_off_0_keeps_all_and_a_high_one_cuts():
    ctx = context()
    fitted = SbGru(variant="sticks").fit(ctx.model, ctx)

    def zeros(cutoff):
        net = SbGru(variant="sticks", cutoff=cutoff).compress(fitted, 0.25, ctx)
        layers = [m for m in net.modules() if isinstance(m, FixedPoint)]
        return sum(int((m.weight == 0).sum()) for m in layers)

    utilities = torch.cat([m.utility.flatten() for m in fitted.matrices.values()])
    middle = float(utilities.median())
    assert zeros(0.0) == 0
    assert zeros(middle) == int((utilities < middle).sum())


def test_fitted_is_left_as_it_was(trained):
    ctx, method = context(), SbGru()
    before = weights(trained.net)
    first = method.compress(trained, 0.8, ctx)
    method.compress(trained, 0.9, ctx)
    assert torch.equal(weights(trained.net), before)
    again = method.compress(trained, 0.8, ctx)
    assert torch.equal(outputs(first, ctx), outputs(again, ctx))


def test_a_ratio_that_leaves_no_room_is_unsupported():
    ctx = context(units=4)
    method = SbGru(variant="plain")
    with pytest.raises(Unsupported, match="do not hold the headers"):
        method.compress(method.fit(ctx.model, ctx), 0.99, ctx)


class _Killed(Exception):
    pass


def test_a_killed_training_goes_on_to_the_same_curve(tmp_path, monkeypatch):
    whole = context()
    expected = SbGru().fit(whole.model, whole)
    monkeypatch.setattr("harness.toolkit.training.SAVE_SECONDS", 0.0)
    deal, dealt = Variational.after_step, []

    def die(self, net):
        dealt.append(1)
        if len(dealt) == 10:  # in the middle of the second of three epochs
            raise _Killed
        deal(self, net)

    monkeypatch.setattr(Variational, "after_step", die)
    broken = context(tmp_path)
    with pytest.raises(_Killed):
        SbGru().fit(broken.model, broken)
    monkeypatch.undo()

    resumed = context(tmp_path)
    found = SbGru().fit(resumed.model, resumed)
    assert curve(resumed) == curve(whole)
    assert curve(resumed, "train_loss") == curve(whole, "train_loss")
    assert torch.equal(weights(found.net), weights(expected.net))


@pytest.mark.slow
def test_a_training_that_is_really_killed_goes_on_to_the_same_curve(tmp_path):
    code = (
        "import harness.toolkit.training; harness.toolkit.training.SAVE_SECONDS = 0\n"
        "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from test_sb_gru import RECIPE, SbGru, context, replace\n"
        "ctx = context(pathlib.Path(sys.argv[2]))\n"
        "SbGru(recipe=replace(RECIPE, epochs=400)).fit(ctx.model, ctx)\n"
    )
    recipe = replace(RECIPE, epochs=400)  # far more than it lives to do
    folder = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"},
    )
    try:
        for _ in range(600):
            if list(tmp_path.glob("*.safetensors")):
                break
            time.sleep(0.1)
        time.sleep(1.5)
    finally:
        process.kill()
        process.wait()
    (file,) = tmp_path.glob("*.safetensors")
    with safe_open(file, framework="pt") as checkpoint:
        done = json.loads(checkpoint.metadata()["at"])["epoch"]
    assert 0 <= done < 399
    whole, resumed = context(), context(tmp_path)
    whole_run = _stopped(SbGru(recipe=recipe), whole, done + 3)
    resumed_run = _stopped(SbGru(recipe=recipe), resumed, done + 3)
    assert resumed_run == whole_run[-len(resumed_run) :]
    assert 2 <= len(resumed_run) <= 4


def _stopped(method, ctx, epochs):
    """Dev losses of the epochs until so many are done, when training is stopped."""
    losses = []

    class Stop(Variational):
        def validate(self, net, data):
            points = super().validate(net, data)
            losses.append(points["validation_loss"].value)
            if self.epoch + 1 == epochs:
                raise _Killed
            return points

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("methods.sb_gru.Variational", Stop)
        with pytest.raises(_Killed):
            method.fit(ctx.model, ctx)
    return losses


def test_the_dense_network_resumes_too(tmp_path, monkeypatch):
    whole = context()
    family = GruSeq2Seq(layers=2, units=12, recipe=RECIPE)
    family.train(whole.model, whole)
    monkeypatch.setattr("harness.toolkit.training.SAVE_SECONDS", 0.0)
    from harness.toolkit.seq2seq_training import Translating

    steps = []

    def die(self, net):
        steps.append(1)
        if len(steps) == 8:
            raise _Killed

    monkeypatch.setattr(Translating, "after_step", die)
    broken = context(tmp_path)
    with pytest.raises(_Killed):
        family.train(broken.model, broken)
    monkeypatch.undo()
    resumed = context(tmp_path)
    family.train(resumed.model, resumed)
    assert curve(resumed) == curve(whole)
    assert torch.equal(weights(resumed.model.net), weights(whole.model.net))


def test_a_network_compressed_by_svd_still_translates():
    # Its recurrent products are low-rank layers without a matrix of their own.
    ctx = context()
    method = Svd()
    net = method.compress(method.fit(ctx.model, ctx), 0.5, ctx).eval()
    assert net.encoder.layers[0].fused() is None
    before, after = (
        model_size.size(ctx.model.with_net(n)) for n in (ctx.model.net, net)
    )
    assert after.params < before.params
    assert after.macs < before.macs
    found = translate(net, ctx.data.dev.source, Search(max_length=8))
    assert len(found) == len(ctx.data.dev)


@pytest.mark.parametrize(
    ("method", "ratio"),
    [
        (Svd(), 0.5),
        (Magnitude(), 0.5),
        (RoundToNearest(bits=4), 0.875),
        (SbGru(variant="plain"), 0.875),
    ],
)
def test_the_baselines_treat_the_same_matrices_and_no_other(method, ratio):
    ctx = context(treat="candidate")
    fitted = method.fit(ctx.model, ctx) if hasattr(method, "fit") else None
    net = method.compress(fitted, ratio, ctx).eval()
    names = treated(ctx.model)
    for name, before in ctx.model.net.named_modules():
        if isinstance(before, torch.nn.Linear):
            after = net.get_submodule(name)
            same = type(after) is torch.nn.Linear and torch.equal(
                after.weight, before.weight
            )
            assert same == (name not in names)
    assert not torch.equal(outputs(net, ctx), outputs(ctx.model.net, ctx))


def test_multiply_adds_are_counted_through_the_fused_kernel():
    # 2 + 2 layers of 12 units: 6 matrices of 12 x 12 a step; 10 source steps, 16 target
    # steps, and the output of 12 x 12 words at each of those.
    ctx = context()
    assert model_size.macs(ctx.model) == 2 * 6 * 144 * (10 + 16) + 16 * 12 * 12


def test_options_that_cannot_be_are_refused_all_at_once():
    with pytest.raises(ValueError, match=r"cutoff is 1.0.*sigma is 0.0"):
        SbGru(cutoff=1.0, sigma=0.0)
    made = build("method", "sb_gru", SbGru, json.loads('{"variant": "sticks"}'))
    assert made.variant == "sticks"

"""The GRU layer against torch's, and the sequence-to-sequence network by hand."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from harness.models._gru import GruLayer
from harness.models._seq2seq import Seq2Seq
from harness.models.gru_seq2seq import GruSeq2Seq
from harness.toolkit.decoding import NEVER, Search, translate
from harness.toolkit.sequences import BEGIN, END, pad


class Product(nn.Module):
    """A projection without a matrix of its own, as low-rank layers are."""

    def __init__(self, linear):
        super().__init__()
        self.inner = linear

    def forward(self, x):
        return self.inner(x)


def packed(lengths=(5, 2, 7), size=6):
    rows = [torch.randn(n, size) for n in lengths]
    return pack_padded_sequence(
        pad_sequence(rows), torch.tensor(lengths), enforce_sorted=False
    )


def tiny(attention=False, layers=2, **options):
    torch.manual_seed(3)
    net = Seq2Seq(
        source_words=9,
        target_words=8,
        layers=layers,
        units=6,
        embedding=6,
        dropout=0.3,
        residual=True,
        reverse=True,
        attention=attention,
        **options,
    )
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(3)  # far from uniform, so that searches differ
    return net.eval()


@pytest.mark.parametrize("stepwise", [False, True])
def test_a_layer_equals_torchs_gru(stepwise):
    torch.manual_seed(0)
    theirs = nn.GRU(6, 4).double()
    ours = GruLayer(6, 4).double().load_torch(theirs)
    sequence = packed()
    sequence = sequence._replace(data=sequence.data.double())
    start = torch.randn(3, 4).double()
    if stepwise:
        ours.hidden.candidate = Product(ours.hidden.candidate)
        assert ours.fused() is None

    outputs, last = ours(sequence, start[sequence.sorted_indices])
    expected, end = theirs(sequence, start[None])

    assert torch.allclose(outputs.data, expected.data, atol=1e-12)
    assert torch.allclose(last[sequence.unsorted_indices], end[0], atol=1e-12)


def test_gradients_equal_torchs():
    torch.manual_seed(0)
    theirs = nn.GRU(6, 4).double()
    ours = GruLayer(6, 4).double().load_torch(theirs)
    sequence = packed()
    sequence = sequence._replace(data=sequence.data.double())
    ours(sequence, torch.zeros(3, 4).double())[0].data.square().sum().backward()
    theirs(sequence)[0].data.square().sum().backward()
    for side, gates in (("ih", ours.input), ("hh", ours.hidden)):
        grads = [p.weight.grad for p in gates.projections()]
        expected = getattr(theirs, f"weight_{side}_l0").grad
        assert torch.allclose(torch.cat(grads), expected, atol=1e-12)


def test_a_fresh_layer_is_drawn_as_torch_draws_it():
    bound = 100**-0.5
    weights = torch.cat([p.flatten() for p in GruLayer(50, 100).parameters()])
    assert weights.abs().max() <= bound
    assert weights.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_the_network_is_the_published_recipe_written_with_torchs_gru():
    # Source reversed, residual from layer 2 on, states bridged layer by layer.
    net = tiny()
    source, target = torch.tensor([[4, 5, 6]]), torch.tensor([[5, 7]])

    def run(stack, words, states):
        ends = []
        for i, layer in enumerate(stack.layers):
            gru = nn.GRU(6, 6)
            with torch.no_grad():
                for side, gates in (("ih", layer.input), ("hh", layer.hidden)):
                    for kind in ("weight", "bias"):
                        rows = [getattr(p, kind) for p in gates.projections()]
                        getattr(gru, f"{kind}_{side}_l0").copy_(torch.cat(rows))
            out, end = gru(words, states[i][None])
            words = out + words if i > 0 else out
            ends.append(end[0])
        return words, ends

    with torch.no_grad():
        x = net.source_embedding(source.flip(1)).transpose(0, 1)
        _, ends = run(net.encoder, x, [torch.zeros(1, 6)] * 2)
        given = torch.tensor([[BEGIN, 5, 7]])
        top, _ = run(net.decoder, net.target_embedding(given).transpose(0, 1), ends)
        expected = net.output(top).transpose(0, 1)
        assert torch.allclose(net(source, target), expected, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_padding_changes_no_sentence(attention):
    net = tiny(attention)
    sources = [torch.tensor([4, 5, 6, 7, 8]), torch.tensor([8, 4])]
    targets = [torch.tensor([5]), torch.tensor([7, 6, 5, 4])]
    with torch.no_grad():
        both = net(pad(sources), pad(targets))
        for i in range(2):
            alone = net(sources[i][None], targets[i][None])[0]
            assert torch.allclose(both[i, : len(alone)], alone, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_teacher_forcing_and_stepping_give_equal_probabilities(attention):
    net = tiny(attention)
    source, target = torch.tensor([[4, 5, 6]]), torch.tensor([[5, 7, 4]])
    with torch.no_grad():
        taught = net(source, target).log_softmax(-1)[0]
        encoded = net.encode(source)
        states = encoded.states
        for t, word in enumerate([BEGIN, 5, 7, 4]):
            steps, states = net.step(torch.tensor([word]), states, encoded)
            assert torch.allclose(steps[0], taught[t], atol=1e-5)


def test_the_loss_sums_over_words_and_the_end():
    net = tiny()
    source, target = torch.tensor([[4, 5, 6]]), torch.tensor([[5, 7]])
    with torch.no_grad():
        loss, words = net.log_loss(source, target)
        scores = net(source, target).log_softmax(-1)[0]
    by_hand = -(scores[0, 5] + scores[1, 7] + scores[2, END])
    assert words == 3
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_a_beam_as_wide_as_everything_finds_the_most_probable_sentence(attention):
    # 8 target words, 3 never written, 1 end: 4 words, at most 3 of them: 1+4+16+64.
    net, source = tiny(attention), torch.tensor([4, 8, 6])
    words = [w for w in range(8) if w not in (*NEVER, END)]
    scores = {}
    for n in range(3):
        for sentence in itertools.product(words, repeat=n):
            target = torch.tensor([sentence], dtype=torch.long).view(1, n)
            with torch.no_grad():
                loss, _ = net.log_loss(source[None], target)
            scores[sentence] = -loss.item()
    best = max(scores, key=scores.get)
    found = translate(net, [source], Search(beam=16, max_length=3))
    assert found == [(list(best), True)]


def test_greedy_takes_the_most_probable_word_of_each_step():
    net, source = tiny(), torch.tensor([4, 8, 6])
    tokens: list[int] = []
    with torch.no_grad():
        encoded = net.encode(source[None])
        states, word = encoded.states, BEGIN
        while word != END and len(tokens) < 20:
            steps, states = net.step(torch.tensor([word]), states, encoded)
            steps[:, NEVER] = -math.inf
            word = int(steps.argmax())
            tokens.append(word)
    ended = tokens[-1] == END
    expected = tokens[:-1] if ended else tokens
    assert translate(net, [source], Search(max_length=20)) == [(expected, ended)]


def test_translations_do_not_depend_on_the_batch():
    net = tiny()
    rng = torch.Generator().manual_seed(1)
    sources = [
        torch.randint(4, 9, (int(n),), generator=rng)
        for n in torch.randint(1, 7, (9,), generator=rng)
    ]
    one = [translate(net, [s], Search(beam=3, max_length=9))[0] for s in sources]
    assert translate(net, sources, Search(beam=3, max_length=9, batch=4)) == one


def test_a_length_penalty_favours_longer_translations():
    net = tiny()
    sources = [torch.tensor(s) for s in ([4, 8, 6], [5], [7, 7, 4, 5], [8, 6])]
    lengths = [
        sum(
            len(t) for t, _ in translate(net, sources, Search(beam=4, length_penalty=p))
        )
        for p in (0.0, 3.0)
    ]
    assert lengths[1] >= lengths[0]


def test_a_translation_that_does_not_end_says_so():
    net = tiny()
    with torch.no_grad():
        net.output.bias[END] = -1e4
    assert translate(net, [torch.tensor([4])], Search(max_length=5))[0][1] is False


def test_sizes_that_build_no_network_are_refused_all_at_once():
    with pytest.raises(ValueError, match=r"layers is 0.*dropout is 1"):
        GruSeq2Seq(layers=0, dropout=1.0)


def test_the_paper_s_network_has_the_size_that_its_text_implies():
    # 4 + 4 layers of 1,000: each 6 * 1000^2 weights and 6,000 biases; vocabularies
    # of 1,066 glosses and 2,887 words, 1,000 numbers each; output with bias.
    shape = {"source_words": 1066, "target_words": 2887}
    with torch.device("meta"):
        net = GruSeq2Seq(layers=4, units=1000).build(shape, 0).net
    expected = 8 * (6_000_000 + 6_000) + (1066 + 2887) * 1000 + 2887 * 1001
    assert sum(p.numel() for p in net.parameters()) == expected


def test_roles_name_the_papers_matrix_or_every_one():
    shape = {"source_words": 9, "target_words": 9}
    model = GruSeq2Seq(layers=2, units=4).build(shape, 0)
    assert [name for name, _ in model.modules()] == [
        "encoder.layers.1.input.candidate",
        "encoder.layers.1.hidden.candidate",
    ]
    every = GruSeq2Seq(layers=2, units=4, treat="recurrent").build(shape, 0)
    assert len(list(every.modules("linear"))) == 2 * 2 * 6
    assert model.net(**model.example()).shape == (1, 16, 9)

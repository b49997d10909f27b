"""Corpus metrics by hand and by sacrebleu; the tasks' files, splits and mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU

from harness.core import BenchError, Context
from harness.models.gru_seq2seq import GruSeq2Seq
from harness.toolkit.recipe import Recipe
from harness.toolkit.sequences import Pairs, Vocabulary, buckets
from results.tables.bleu import corpus_bleu
from tasks._translation.aligned import read_aligned
from tasks._translation.corpus_scores import bleu_statistics, corpus_scores
from tasks.hsk_gloss import HskGloss
from tasks.parallel_text import ParallelTextTask
from tasks.phoenix2014t import Phoenix2014T

FINE = [("a b c d", "w x y z"), ("b c", "x y"), ("c d a", "y z w"), ("d", "z")] * 5


def write(folder, source, target, names=("s", "t")):
    paths = [folder / name for name in names]
    for path, lines in zip(paths, (source, target), strict=True):
        data = lines if isinstance(lines, bytes) else "\n".join(lines).encode()
        path.write_bytes(data)
    return paths


def generic(folder, pairs=FINE, **options):
    source, target = write(folder, *zip(*pairs, strict=True))
    return ParallelTextTask(source=str(source), target=str(target), **options)


def scores(hypotheses, references):
    return {m.metric: m for m in corpus_scores(hypotheses, references)}


def test_bleu_of_papineni_s_example_of_clipping():
    # Papineni et al. 2002, section 2.1: "the" x 7 against "the cat is on the mat":
    # clipped unigram precision 2/7; no bigram matches, so BLEU-2 and above are 0.
    found = scores(["the the the the the the the"], ["the cat is on the mat"])
    assert found["bleu1"].value == pytest.approx(100 * 2 / 7)
    assert found["bleu2"].value == found["bleu4"].value == 0


def test_bleu_punishes_brevity_over_the_corpus():
    # 4 words of 5, all right: exp(1 - 5/4) of 100 %.
    found = scores(["a b", "c d"], ["a b", "c d e"])
    assert found["bleu1"].value == pytest.approx(100 * np.exp(1 - 5 / 4))


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence_umlauts_and_all():
    # Longest common subsequence "über wind": P = 2/3, R = 2/4, F1 = 4/7.
    found = scores(["über dem wind"], ["über nacht kommt wind"])["rouge_l"]
    assert found.value == pytest.approx(100 * 4 / 7)


def test_exact_match_is_the_share_of_equal_sentences():
    assert scores(["a b", "c"], ["a b", "d"])["exact_match"].value == 50


def random_corpus(seed, n=60, error=0.3):
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(list("abcdefgh"), 9)) for _ in range(n)]
    hypotheses = [
        " ".join(w if rng.random() > error else "z" for w in r.split())
        for r in references
    ]
    return hypotheses, references


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_follows_from_the_stored_counts(order):
    hypotheses, references = random_corpus(0)
    columns = bleu_statistics(hypotheses, references)
    theirs = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order)
    expected = theirs.corpus_score(hypotheses, [references]).score
    assert corpus_bleu(columns, order=order) == pytest.approx(expected)
    times = np.zeros(60)
    times[:20] = 2
    part = theirs.corpus_score(2 * hypotheses[:20], [2 * references[:20]]).score
    assert corpus_bleu(columns, times, order=order) == pytest.approx(part)


def test_the_bootstrap_error_is_the_spread_over_fresh_corpora():
    # The standard error must agree with the spread of BLEU over 60 corpora drawn
    # from the source that made the one it was computed from.
    error = scores(*random_corpus(0))["bleu4"].stderr
    spread = np.std(
        [corpus_bleu(bleu_statistics(*random_corpus(s))) for s in range(60)]
    )
    assert error == pytest.approx(spread, rel=0.35)


def test_two_systems_are_compared_by_paired_bootstrap_from_what_is_stored():
    # One errs in 30 % of the words, the other in 35; a sentence is drawn for both.
    def stored(error):
        found = scores(*random_corpus(0, error=error))
        return {name: m.values for name, m in found.items() if name[:5] == "bleu_"}

    better, worse = stored(0.30), stored(0.35)
    rng = np.random.default_rng(0)
    wins = 0
    for _ in range(200):
        times = rng.multinomial(60, np.full(60, 1 / 60))
        wins += corpus_bleu(better, times) > corpus_bleu(worse, times)
    assert wins / 200 > 0.95


def test_a_system_that_writes_nothing_is_at_the_level_of_guessing():
    found = scores([""] * 3, ["a b c d"] * 3)
    ranked = [m for m in found.values() if m.goal == "max"]
    assert [(m.value, m.chance) for m in ranked] == [(0, 0)] * len(ranked)


def test_a_mean_has_its_textbook_error():
    values = scores(*random_corpus(1))["rouge_l"]
    textbook = np.std(values.values, ddof=1) / np.sqrt(60)
    assert values.stderr == pytest.approx(textbook, rel=0.1)


def test_a_vocabulary_is_ordered_by_frequency_and_maps_strangers_to_unk():
    words = Vocabulary.of([["b", "b", "a"], ["c", "a", "d", "c"]], min_count=2)
    assert words.words[4:] == ("a", "b", "c")
    assert words.decode(words.encode(["c", "d", "never"])) == ["c", "<unk>", "<unk>"]


def test_buckets_hold_every_pair_once_and_pairs_of_like_length_together():
    rng = torch.Generator().manual_seed(0)
    pairs = Pairs(
        source=[torch.ones(1)] * 500,
        target=[
            torch.ones(int(n)) for n in torch.randint(1, 30, (500,), generator=rng)
        ],
    )
    dealt = list(buckets(pairs, size=25, stream=rng))
    assert sorted(i for batch in dealt for i in batch) == list(range(500))
    spread = [np.ptp([len(pairs.target[i]) for i in batch]) for batch in dealt]
    assert np.mean(spread) < 3  # of 28 if drawn at random
    again = list(buckets(pairs, size=25, stream=torch.Generator().manual_seed(1)))
    assert dealt != again


def test_files_of_unequal_length_are_refused(tmp_path):
    with pytest.raises(BenchError, match=r"s has 2 lines and .*t has 1"):
        read_aligned(*write(tmp_path, ["a", "b"], ["c"]))


def test_empty_lines_are_named(tmp_path):
    with pytest.raises(BenchError, match=r"s has 2 empty lines \(line 2, 4\)"):
        read_aligned(*write(tmp_path, ["a", "", "b", " ", "c"], list("vwxyz")))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    paths = write(tmp_path, ["a", "b"], b"gut\nsch\xf6n")
    with pytest.raises(
        BenchError, match=r"t, line 2: byte 0xf6 at column 4 is not UTF"
    ):
        read_aligned(*paths)


def own_files(tmp_path, **options):
    def pair(name, words):
        paths = [tmp_path / f"{name}.{side}" for side in ("s", "t")]
        for path, change in zip(paths, (str.lower, str.upper), strict=True):
            path.write_text("".join(f"{change(word)}\n" for word in words))
        return dict(
            zip((f"{name}source", f"{name}target"), map(str, paths), strict=True)
        )

    train = pair("", [f"w{i}" for i in range(10)])
    given = {"dev_": pair("dev_", ["x1", "x2"]), "test_": pair("test_", ["y1"])}
    chosen = options.pop("own", ("dev_", "test_"))
    files = {k: v for name in chosen for k, v in given[name].items()}
    return ParallelTextTask(**train, **files, **options)


def test_each_split_may_have_files_of_its_own(tmp_path):
    task = own_files(tmp_path)
    splits = task.read()

    assert splits["train"][0] == [[f"w{i}"] for i in range(10)]
    assert splits["dev"] == ([["x1"], ["x2"]], [["X1"], ["X2"]])
    assert splits["test"] == ([["y1"]], [["Y1"]])
    assert task.protocol()["split"] == {"dev": "own files", "test": "own files"}


def test_a_split_without_files_is_drawn_from_the_lines(tmp_path):
    task = own_files(tmp_path, own=("test_",), dev=0.2)
    splits = task.read()

    assert splits["test"][0] == [["y1"]]
    assert [len(splits[s][0]) for s in ("train", "dev")] == [8, 2]
    drawn = sorted(w for s in ("train", "dev") for (w,) in splits[s][0])
    assert drawn == [f"w{i}" for i in range(10)]
    assert task.protocol()["split"] == {
        "dev": 0.2,
        "test": "own files",
        "split_seed": 0,
    }


def test_every_file_of_a_split_is_part_of_the_fingerprint(tmp_path):
    task = own_files(tmp_path)
    seen = {task.fingerprint()}
    for name in ("source", "target", "dev_source", "test_target"):
        path = Path(getattr(task, name))
        path.write_text(path.read_text().replace("1", "7"))
        seen.add(task.fingerprint())
    assert len(seen) == 5


def test_the_test_set_of_one_task_chooses_no_network_of_another(tmp_path):
    """Where it is the dev set of the other, with the same lines to train on."""
    own = write(tmp_path, ["a b"], ["c d"], ("own_s", "own_t"))
    as_dev, as_test = (
        generic(
            tmp_path,
            **{f"{split}_source": str(own[0]), f"{split}_target": str(own[1])},
        )
        for split in ("dev", "test")
    )
    assert as_dev.fingerprint() == as_test.fingerprint()
    assert as_dev.training() != as_test.training()


def test_files_that_change_while_a_process_lives_are_read_again(tmp_path):
    task = own_files(tmp_path)
    before = task.data().dev.source
    Path(task.dev_source).write_text("w1\nw2\n")

    assert before[0].tolist() != task.data().dev.source[0].tolist()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dev_source": "d"}, "give both dev_source and dev_target"),
        ({"test_target": "d"}, "give both test_source and test_target"),
        (
            {"dev_source": "d", "dev_target": "e", "dev": 0.2},
            "dev_source has all of dev",
        ),
        ({"test": 0.9, "dev": 0.1}, "together below 1"),
    ],
)
def test_files_of_splits_that_contradict_each_other_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        ParallelTextTask(source="s", target="t", **options)


def test_a_missing_file_is_named(tmp_path):
    task = ParallelTextTask(source=str(tmp_path / "no"), target=str(tmp_path / "none"))
    with pytest.raises(BenchError) as caught:
        task.fingerprint()
    assert len(caught.value.errors) == 2


def test_a_folder_without_the_files_says_where_they_can_be_had(tmp_path, monkeypatch):
    monkeypatch.delenv("SHRINKGRID_PHOENIX2014T", raising=False)
    with pytest.raises(BenchError, match="neccam/nslt"):
        Phoenix2014T().fingerprint()
    write(tmp_path, ["a"], ["b"], ("phoenix2014T.dev.gloss", "phoenix2014T.dev.de"))
    with pytest.raises(BenchError, match=r"lacks phoenix2014T.train.gloss, .*nslt"):
        Phoenix2014T(folder=str(tmp_path)).fingerprint()


def test_training_pairs_over_the_limit_are_left_out_and_counted(tmp_path):
    task = generic(tmp_path, [*FINE, ("long " * 9, "w")] * 2, max_words=4, test=0.2)
    data = task.data()
    longest = max(len(s) for side in (data.train.source,) for s in side)
    assert data.left_out > 0
    assert longest <= 4
    assert data.left_out + len(data.train) == len(task.read()["train"][0])


def test_test_sentences_are_never_left_out_or_cut(tmp_path):
    task = generic(tmp_path, [("long " * 9, "w " * 9)] * 20 + FINE * 2, max_words=4)
    model = GruSeq2Seq(layers=1, units=4).build(task.data().shape, 0)
    found = {m.metric: m for m in task.evaluate(model)}
    test = task.read()["test"]
    assert max(len(s) for s in test[0]) == 9
    assert found["bleu1"].n == len(test[0])
    assert found["bleu_reference_words"].value == sum(len(t) for t in test[1])
    assert found["left_out_training_pairs"].value == task.data().left_out > 0


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("tasks.hsk_gloss.PACKAGE", "hsk_sentences_nowhere")
    with pytest.raises(BenchError, match=r"hsk-sentences-audio==1\.0\.0"):
        HskGloss().fingerprint()


def test_nothing_left_to_train_on_is_refused(tmp_path):
    with pytest.raises(BenchError, match="0 training pairs of at most 1 words"):
        generic(tmp_path, [("a b", "c d")] * 20, max_words=1).data()


def test_options_out_of_range_are_refused_all_at_once():
    with pytest.raises(ValueError, match=r"beam is 0.*max_length is -1.*penalty is -2"):
        HskGloss(beam=0, max_length=-1, length_penalty=-2.0)
    with pytest.raises(ValueError, match="together below 1"):
        ParallelTextTask(source="s", target="t", dev=0.5, test=0.5)


def test_the_split_is_fixed_and_disjoint(tmp_path):
    pairs = [(f"s{i}", f"t{i}") for i in range(50)]
    one, same = (generic(tmp_path, pairs).read() for _ in range(2))
    other = generic(tmp_path, pairs, split_seed=1).read()
    assert one == same != other
    sentences = [tuple(s) for split in one.values() for s in split[0]]
    assert len(sentences) == len(set(sentences)) == 50


def trained(task, epochs=30, **options):
    recipe = Recipe(epochs=epochs, batch_size=5, optimizer="adam", lr=0.02)
    family = GruSeq2Seq(layers=1, units=16, dropout=0.0, recipe=recipe, **options)
    model = family.build(task.data().shape, 0)
    ctx = Context(model=model, seed=0, device=torch.device("cpu"), data=task.data())
    family.train(model, ctx)
    return model, ctx


def test_a_network_learns_a_word_by_word_dictionary(tmp_path):
    # Each source word has one translation; what was learnt must carry to the test.
    task = generic(tmp_path, FINE * 5)
    model, ctx = trained(task, attention="luong")
    found = {m.metric: m for m in task.evaluate(model)}
    assert found["exact_match"].value == 100
    assert found["bleu1"].value == pytest.approx(100)
    assert found["unfinished"].value == 0
    assert found["word_perplexity"].value < 1.2
    curve = [m.value for m in ctx.recorded if m.metric == "validation_loss"]
    assert len(curve) == 30
    assert curve[-1] < curve[0] / 5


def test_unknown_words_of_the_test_split_are_counted_not_refused(tmp_path):
    task = generic(tmp_path, [(f"a s{i}", f"w t{i}") for i in range(30)])
    model, _ = trained(task, epochs=1)
    found = {m.metric: m for m in task.evaluate(model)}
    assert found["unknown_source_words"].value == 3  # one in each of 3 test sentences
    assert found["unknown_source_words"].n == 6


def test_the_embedded_corpus_is_whole():
    task = HskGloss()
    splits = task.read()
    assert {s: len(v[0]) for s, v in splits.items()} == {
        "train": 3484,
        "dev": 435,
        "test": 435,
    }
    assert splits["train"][0][0] == ["TEACHER", "YOU", "GOOD"]
    assert splits["train"][1][0] == ["hello", ",", "teacher", "!"]


def test_phoenix_has_the_published_sizes(shared_data):
    # 7,096 / 519 / 642 pairs; 1,232 glosses and 2,888 German words in training, as
    # counted from the text files of neccam/nslt.
    task = Phoenix2014T(folder=str(shared_data / "phoenix2014t"))
    data = task.data()
    assert (len(data.train), len(data.dev)) == (7096, 519)
    assert len(task.read()["test"][0]) == 642
    assert data.shape == {"source_words": 1232 + 4, "target_words": 2888 + 4}


def test_protocols_differ_where_numbers_do():
    assert HskGloss().protocol() == HskGloss().protocol()
    assert HskGloss(beam=1).protocol() != HskGloss().protocol()
    assert "tok:none" in HskGloss().protocol()["bleu"]
    assert HskGloss(limit=10).training() != HskGloss().training()
    assert HskGloss(beam=1).training() == HskGloss().training()

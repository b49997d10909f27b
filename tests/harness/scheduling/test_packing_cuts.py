"""When a bundle is cut, and what a cut may not do."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fixed_costs import FixedCosts, packer

from harness.planning.plan import Artifact, Bundle
from harness.scheduling.hardware import CPU, parse
from harness.scheduling.interval import Interval
from harness.scheduling.packing import Packer, _crowded


def needs(*seconds):
    return [SimpleNamespace(seconds=SimpleNamespace(mid=mid)) for mid in seconds]


@pytest.mark.parametrize(
    ("length", "halves", "others", "width", "crowded"),
    [
        # Two halves and two others of 4 s or longer on three slots: two of them run in
        # one slot, and end after 8 s.
        (8.0, (4.0, 6.0), (4.0, 5.0), 3, True),
        (8.1, (4.0, 6.0), (4.0, 5.0), 3, False),  # 8 s are sooner than 8.1 s
        (8.0, (4.0, 6.0), (4.0, 5.0), 4, False),  # a slot for each
        (8.0, (4.0, 6.0), (3.9, 5.0), 3, False),  # the shorter one may share a slot
    ],
)
def test_halves_without_a_slot_of_their_own_cannot_end_sooner(
    length, halves, others, width, crowded
):
    assert _crowded(length, needs(*halves), needs(*others), width) is crowded


def test_bundles_are_cut_until_every_slot_has_one(plan):
    made = plan(ratios=8)

    parts = Packer(cluster=parse("4xCPU")).arrange(made.bundles)

    assert len(parts) >= 4
    trials = [t.id for b in parts for t in b.trials]
    assert sorted(trials) == sorted(t.id for b in made.bundles for t in b.trials)
    # By ratio: both tasks of a ratio stay together, so that it is compressed once.
    for part in parts:
        ratios = [t.ratio for t in part.trials]
        assert all(ratios.count(r) == 2 for r in ratios)


def sizes(bundles: Sequence[Bundle]) -> list[int]:
    return [len(b.trials) for b in bundles]


def test_idle_slots_get_halves_until_each_has_one(plan):
    # Eight trials of 1 s after 2 s of setup, which is too much to repeat for nothing.
    bundles = plan(ratios=4).bundles

    assert sizes(packer("1xCPU", setup=2).arrange(bundles)) == [8]
    assert sizes(packer("2xCPU", setup=2).arrange(bundles)) == [4, 4]
    assert sizes(packer("4xCPU", setup=2).arrange(bundles)) == [2, 2, 2, 2]


def test_idle_slots_are_filled_also_beside_a_bundle_that_takes_longer(plan):
    # One trial of 30 s that cannot be cut, and eight of 1 s on the three other slots.
    whole = plan(ratios=4).bundles[0]
    long = whole.part(whole.trials[:1])
    own = packer("4xCPU", each=lambda b: 30.0 if b.id == long.id else 1.0)

    assert sorted(sizes(own.arrange([long, whole]))) == [1, 2, 2, 4]


def test_with_little_to_repeat_no_bundle_is_longer_than_a_quarter_of_the_plan(plan):
    bundles = plan(ratios=4).bundles

    # 8 s at best: bundles of 2 s are short enough. A tenth of setup is cheap, more not.
    assert sizes(packer("1xCPU").arrange(bundles)) == [2, 2, 2, 2]
    assert sizes(packer("1xCPU", setup=0.9, each=0.9).arrange(bundles)) == [8]
    assert sizes(packer("1xCPU", setup=0.8, each=0.9).arrange(bundles)) == [4, 4]


def test_a_cut_for_an_idle_slot_must_shorten_the_bundle_by_a_tenth(plan):
    # A setup of s and 8 trials of 1 s: half of it takes s + 4 of s + 8 seconds, which
    # is 9 tenths at s = 32.
    bundles = plan(ratios=4).bundles

    assert sizes(packer("2xCPU", setup=32).arrange(bundles)) == [4, 4]
    assert sizes(packer("2xCPU", setup=33).arrange(bundles)) == [8]
    assert sizes(packer("2xCPU", setup=33, guessed=True).arrange(bundles)) == [4, 4]


def test_the_longer_half_decides_whether_a_cut_helps(plan):
    # Three ratios of one task: a half of one trial, and one of two.
    bundles = plan(ratios=3, tasks="[toy_sum]").bundles

    # s + 2 <= 0.9 (s + 3) up to s = 7; the short half would allow s = 17.
    assert sizes(packer("2xCPU", setup=7).arrange(bundles)) != [3]
    assert sizes(packer("2xCPU", setup=8).arrange(bundles)) == [3]


def test_a_bundle_that_others_would_wait_for_is_cut_though_no_slot_is_idle(plan):
    # 100 s and two bundles of 30 s on two slots are 80 s at best: others would wait
    # for the long one. Of two bundles of 100 s neither waits, and a cut is not cheap.
    long = plan(ratios=4).bundles[0]
    short = [long.part((t,)) for t in long.trials[:2]]
    own = packer("2xCPU", setup=20, each=10)

    assert sizes(own.arrange([long, *short])) == [4, 4, 1, 1]
    assert sizes(own.arrange([long, long])) == [8, 8]


def test_halves_that_would_wait_for_each_other_are_not_made(plan):
    # Three bundles of 6, 4 and 4 s take 6 s on three slots. A cut of the first makes
    # four of 4 s, of which two run in one slot: 8 s.
    bundles = plan(ratios=4).bundles

    assert sorted(sizes(packer("3xCPU", setup=2).arrange(bundles))) == [2, 2, 4]
    # 4, 4, 4, 3 and 3 s on five slots; six bundles would take 6 s.
    assert sorted(sizes(packer("5xCPU", setup=2).arrange(bundles))) == [1, 1, 2, 2, 2]


def test_a_repeated_fit_must_not_take_longer_than_the_bundle_that_is_cut(plan):
    # 10 and three times 3 s take 10 s on two slots; two halves of 6 s and three bundles
    # of 3 s are 21 s of work, which take at least 10.5 s.
    long = plan(ratios=4).bundles[0]
    short = [long.part((t,)) for t in long.trials[:3]]

    assert sizes(packer("2xCPU", setup=2).arrange([long, *short])) == [8, 1, 1, 1]
    # With two of 3 s it is 18 s of work: 6 + 3 on each slot.
    assert sizes(packer("2xCPU", setup=2).arrange([long, *short[:2]])) == [4, 4, 1, 1]


class Builds(FixedCosts):
    """Building an artifact takes as many seconds as its seed says."""

    def artifact(self, artifact, device=CPU):
        return Interval(artifact.seed, artifact.seed, artifact.seed)


def artifacts(bundle: Bundle, *seconds: int) -> tuple[Artifact, ...]:
    model = bundle.trials[0].model
    return tuple(
        Artifact(kind="dense", model=model, dtype="float32", seed=s) for s in seconds
    )


def test_of_several_artifacts_the_slowest_is_waited_for(plan):
    bundles = plan("toy_drop, magnitude", ratios=1, tasks="[toy_sum]").bundles
    first, second = bundles
    own = Packer(
        cluster=parse("1xCPU"),
        predictor=Builds(each=lambda b: 3.0 if b.id == first.id else 1.0),
    )

    # 3 s against 1 s and a wait of 5 s, of 2 s, and of 1 s.
    for seconds, name in (((1, 5), "magnitude"), ((5, 1), "magnitude"), ((1,), "toy")):
        waits = replace(second, artifacts=artifacts(second, *seconds))
        arranged = own.arrange([first, waits])
        assert arranged[0].trials[0].method.name.startswith(name)


def test_the_halves_of_a_bundle_wait_as_long_as_the_whole(plan):
    # Four trials of 1 s that wait 20 s, and four that do not, on four slots: the plan
    # ends at 21 s if each waiting trial has its own bundle; the others have time.
    waiting, other = plan("toy_drop, magnitude", ratios=4, tasks="[toy_sum]").bundles
    waits = replace(waiting, artifacts=artifacts(waiting, 20))
    own = Packer(cluster=parse("4xCPU"), predictor=Builds())

    arranged = own.arrange([other, waits])

    assert sizes([b for b in arranged if b.artifacts]) == [1, 1, 1, 1]
    assert sizes([b for b in arranged if not b.artifacts]) == [4]

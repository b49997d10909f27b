"""A log keeps its beginning and its end, says whose part is whose, and is found."""

import io

import pytest

from results.storage import leases, logs
from results.storage.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store", create=True)


def test_a_log_within_the_limit_is_kept_whole():
    assert logs.bounded(io.BytesIO(b"one\ntwo\n")) == "one\ntwo\n"
    largest = "x" * (logs.LARGEST - 1) + "\n"
    assert logs.bounded(io.BytesIO(largest.encode())) == largest
    assert "left out" in logs.bounded(io.BytesIO(b"x\n" + largest.encode()))


def test_of_a_long_log_the_ends_stay_and_the_rest_is_counted():
    lines = [f"line {n}\n" for n in range(200_000)]
    whole = "".join(lines).encode()

    kept = logs.bounded(io.BytesIO(whole))

    assert len(kept) < logs.LARGEST + 100
    head, said, tail = kept.partition("... ")
    count, _, tail = tail.partition(" bytes are left out here ...\n")
    assert said
    assert head + tail == kept.replace(f"... {count} bytes are left out here ...\n", "")
    assert head.startswith("line 0\n")
    assert tail.endswith("line 199999\n")
    for part in (head, tail):  # half of the limit each, up to the end of a line
        assert logs.LARGEST // 2 - 12 < len(part) <= logs.LARGEST // 2
    assert int(count.replace(",", "")) + len(head) + len(tail) == len(whole)
    assert set((head + tail).splitlines()) <= {line.strip() for line in lines}


def test_marks_alone_are_no_log():
    marks = logs.begun("a1", "t1") + logs.begun("a2", "t2")

    assert logs.bounded(io.BytesIO(marks.encode())) == ""


def test_secrets_are_not_stored(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "open sesame")

    assert logs.bounded(io.BytesIO(b"it is open sesame\n")) == "it is <MY_PASSWORD>\n"


def test_parts_belong_to_trials(store):
    text = "loading\n" + logs.begun("a1", "t1") + "x\n" + logs.begun("a2", "t2") + "y\n"
    logs.write(store, "bundle", "run-a1", text)

    log = logs.of_attempts(store, [("a2", "bundle")], logs.names(store))

    assert log is not None
    parts = [("", "loading\n"), ("t1", "x\n"), ("t2", "y\n")]
    assert list(log.sections()) == parts
    assert logs.without_marks(log.text) == "loading\nx\ny\n"


def test_the_newest_attempt_with_a_log_is_found(store):
    logs.write(store, "one", "r1-a1", logs.begun("a1", "t") + "first\n")
    logs.write(store, "one", "r2-a2", logs.begun("a2", "t") + "second\n")
    logs.write(store, "other", "r3-a3", logs.begun("a3", "u") + "other\n")
    names = logs.names(store)

    newest = logs.of_attempts(store, [("a2", "one"), ("a1", "one")], names)
    only = logs.of_attempts(store, [("a9", "one"), ("a1", "one")], names)

    assert newest is not None
    assert newest.text.endswith("second\n")
    assert only is not None
    assert only.text.endswith("first\n")
    assert logs.of_attempts(store, [("a3", "one")], names) is None


def test_a_log_whose_marks_were_cut_out_is_found_by_its_bundle(store):
    text = logs.begun("a1", "t1") + "x\n... 9 bytes are left out here ...\ny\n"
    logs.write(store, "one", "r1-a1", text)

    log = logs.of_attempts(store, [("a2", "one")], logs.names(store))

    assert log is not None
    assert log.text == text


def test_a_running_job_names_its_log(store):
    logs.write(store, "one", "run-a1", logs.begun("a1", "t1") + "now\n")

    with leases.lease_job(store, "run", "run-a1", [("a1", "t1"), ("a2", "t2")]):
        lease, log = logs.of_running(store, "t2")

    assert lease is not None
    assert log is not None
    assert log.text.endswith("now\n")
    assert logs.of_running(store, "t2") == (None, None)

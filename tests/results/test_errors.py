"""User errors: all of them at once, equal in every process, without passwords."""

import pickle

import pytest

from harness.core import BenchError
from results.errors import NoStore, StoreError, UserError, unknown


@pytest.mark.parametrize("kind", [BenchError, StoreError, NoStore])
def test_every_error_is_one_family_and_keeps_its_sentences_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("one: a", "two\nlines")))

    assert isinstance(error, UserError)
    assert error.errors == ["one: a", "two\nlines"]
    assert str(error) == "one: a\ntwo\nlines"


def test_the_file_of_the_errors_is_kept_too():
    error = pickle.loads(pickle.dumps(BenchError("one", where="grid.yaml")))

    assert (error.where, error.errors) == ("grid.yaml", ["one"])
    assert StoreError("one").where == ""


def test_user_names_and_passwords_of_uris_are_removed():
    error = StoreError("s3://me:secret@bucket/store cannot be read", "second")

    assert error.errors == ["s3://bucket/store cannot be read", "second"]
    assert "secret" not in str(error)
    assert "secret" not in repr(error)


def test_the_nearest_name_is_offered():
    assert "Did you mean 'method'?" in str(unknown("column", "methud", ["method"]))

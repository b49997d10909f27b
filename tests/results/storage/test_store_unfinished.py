"""What killed processes were writing is looked for in every folder of a store."""

from results.storage import temporary


def test_every_folder_of_a_store_is_searched_for_unfinished_files(empty, monkeypatch):
    searched = []
    monkeypatch.setattr(
        temporary, "remove_dead", lambda folder: searched.append(folder) or 1
    )
    root = empty.folder.local

    assert empty.remove_unfinished() == len(searched)
    for name in ("", "scratch", "artifacts", "running", "logs", "trials", "plans"):
        assert root / name in searched, name
    assert root / "trials/compacted" in searched

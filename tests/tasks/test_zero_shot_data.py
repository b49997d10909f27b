"""What identifies the data of a zero-shot task: commits, sizes and contents."""

import json

import pytest

from harness.registry import resolve
from harness.toolkit import identity
from tasks._lm_eval import data, task_index

pytestmark = pytest.mark.usefixtures("own_caches")


def fingerprint(name):
    plugin, implied = resolve("task", name)
    return plugin.build(implied).fingerprint()


def prepared(folder, *, commit="1" * 40, rows=5, config="ARC-Easy"):
    where = folder / "datasets" / "allenai___ai2_arc" / config / "0.0.0" / commit
    where.mkdir(parents=True)
    splits = {"test": {"num_examples": rows, "num_bytes": 99}}
    (where / "dataset_info.json").write_text(json.dumps({"splits": splits}))


def test_the_fingerprint_of_hub_data_is_its_commit_and_its_sizes(tmp_path):
    prepared(tmp_path, rows=5)
    prepared(tmp_path, commit="2" * 40, config="ARC-Challenge")
    first = fingerprint("arc_easy")
    assert first.startswith("1" * 12)
    (info,) = tmp_path.glob("datasets/*/ARC-Easy/*/*/dataset_info.json")
    info.write_text(info.read_text().replace("5", "6"))
    assert fingerprint("arc_easy") != first


def test_local_data_is_identified_by_its_content(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("{}")
    facts = {"dataset": "json", "config": None, "files": {"test": str(path)}}
    first = data.revision(facts)
    path.write_text("{ }")
    assert first.startswith("sha256:")
    assert data.revision(facts) != first
    path.unlink()
    assert data.revision(facts) is None


@pytest.mark.parametrize(
    "said",
    [
        {"dataset": "json", "files": {"test": "{here}/[a-z]*/*.jsonl"}},
        {"dataset": "json", "files": {"test": ["**/data.jsonl"]}, "folder": "{here}"},
        {"dataset": "json", "folder": "{here}"},
        {"dataset": "{here}"},
        {"dataset": "{here}", "files": "sub/data.jsonl"},
        {"dataset": "{here}", "folder": "sub"},
    ],
    ids=["pattern", "pattern below", "folder", "data set", "file", "part of it"],
)
def test_local_data_is_its_content_however_it_is_named(tmp_path, said):
    path = tmp_path / "sub" / "data.jsonl"
    path.parent.mkdir()
    facts = json.loads(json.dumps(said).replace("{here}", str(tmp_path)))
    assert data.revision(facts) is None  # nothing is there
    seen = []
    for text in ('{"q": 1}', '{"q": 2}'):
        path.write_text(text)
        seen.append(data.revision(facts))
    assert len(set(seen)) == 2
    assert all(one.startswith("sha256:") for one in seen)


def test_files_of_a_data_set_on_the_hub_are_no_local_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    copy = tmp_path / "owner___name" / "default-0123" / "0.0.0" / "abcdef"
    copy.mkdir(parents=True)
    (copy / "dataset_info.json").write_text("{}")
    facts = {"dataset": "owner/name", "files": "test.jsonl", "folder": "sub"}
    assert data.revision(facts).startswith("abcdef-")


def test_a_task_of_the_users_own_is_identified_by_all_its_files(tmp_path):
    main, template = tmp_path / "mine.yaml", tmp_path / "_template"
    main.write_text("task: mine\ninclude: _template\n")
    template.write_text("doc_to_text: '{{q}}'\n")
    (tmp_path / "utils.py").write_text("def f(doc): return doc\n")
    (tmp_path / "other.yaml").write_text("task: other\n")
    assert set(task_index.sources(main)) == {"mine.yaml", "_template", "utils.py"}

    seen = set()
    for path in (main, template, tmp_path / "utils.py"):
        seen.add(identity.of_files(task_index.sources(main)))
        path.write_text(path.read_text() + "# changed\n")
    seen.add(identity.of_files(task_index.sources(main)))
    assert len(seen) == 4

    group = tmp_path / "group.yaml"
    group.write_text("group: all\ntask: [mine, other]\n")
    assert {"mine.yaml", "other.yaml"} <= set(task_index.sources(group))

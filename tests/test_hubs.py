"""Fetching from both hubs, against a small server that speaks as they do, breaks connections and lies."""

from __future__ import annotations

import pytest

from fake_hub import COMMIT, CONTENT, REPOSITORY
from tingdao.engines import hubs
from tingdao.errors import SetupError

WANTED = {name: data for name, data in CONTENT.items() if not name.endswith((".md", ".png"))}


def there(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != hubs.RECORD}


@pytest.mark.parametrize(("name", "revision"), [("hf", COMMIT), ("modelscope", "master")])
def test_all_files_of_the_model_and_nothing_else(hub, tmp_path, name, revision):
    record = hubs.download(name, REPOSITORY, tmp_path / "m")
    assert there(tmp_path / "m") == WANTED
    assert (record.repository, record.revision) == (REPOSITORY, revision)
    assert hubs.verify(tmp_path / "m") == []


def test_a_revision_can_be_pinned(hub, tmp_path):
    hubs.download("hf", REPOSITORY, tmp_path / "m", revision="v1")
    assert (f"/api/models/{REPOSITORY}/revision/v1", None) in hub.asked


@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_a_broken_download_goes_on_where_it_stopped(hub, tmp_path, name):
    hub.breaks = [1_000_000, 500_000]
    hubs.download(name, REPOSITORY, tmp_path / "m")
    assert there(tmp_path / "m") == WANTED
    ranges = [asked for _, asked in hub.asked if asked]
    assert len(ranges) == 2
    assert all(asked != "bytes=0-" for asked in ranges)


def test_what_an_earlier_run_left_is_used(hub, tmp_path):
    first = "model-00001-of-00002.safetensors"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / f"{first}.partial").write_bytes(CONTENT[first][:1_500_000])
    (tmp_path / "m" / "merges.txt").write_bytes(CONTENT["merges.txt"])
    hubs.download("hf", REPOSITORY, tmp_path / "m")
    assert there(tmp_path / "m") == WANTED
    assert (f"/{REPOSITORY}/resolve/{COMMIT}/{first}", "bytes=1500000-") in hub.asked
    assert not any(path.endswith("merges.txt") for path, _ in hub.asked)


def test_other_content_than_announced_is_thrown_away(hub, tmp_path):
    hub.lie = True
    with pytest.raises(SetupError, match="another hash"):
        hubs.download("hf", REPOSITORY, tmp_path / "m")
    assert there(tmp_path / "m") == {}


def test_what_does_not_exist_is_said(hub, tmp_path):
    with pytest.raises(SetupError, match="Nobody/Model"):
        hubs.download("hf", "Nobody/Model", tmp_path / "m")


@pytest.mark.parametrize(("name", "other"), [("hf", "modelscope"), ("modelscope", "--from hf")])
def test_out_of_reach_names_the_other_hub(monkeypatch, tmp_path, name, other):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SetupError, match=other):
        hubs.download(name, REPOSITORY, tmp_path / "m")


def test_a_folder_is_verified_against_its_record(hub, tmp_path):
    assert hubs.verify(tmp_path) is None
    hubs.download("modelscope", REPOSITORY, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "merges.txt").unlink()
    wrong = sorted(hubs.verify(tmp_path / "m"))
    assert [problem.split(" ")[0] for problem in wrong] == ["config.json", "merges.txt"]

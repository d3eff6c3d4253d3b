"""Run directories: whole records or none, and only for the run they belong to."""

from __future__ import annotations

import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherefrom.errors import StoreError
from wherefrom.store import RunDirectory, write_atomically

IDENTITY = {"model": "abc", "seeds": (0, 1), "lr": 0.1}


def test_records_are_there_for_the_next_process(tmp_path):
    run = RunDirectory(tmp_path / "a" / "run", IDENTITY)
    assert run.read("losses/17") is None
    run.write("losses/17", {"values": [1.5, 2.0]})
    run.write("losses/17", {"values": [3.0]})
    again = RunDirectory(str(tmp_path / "a" / "run"), IDENTITY)
    assert again.read("losses/17") == {"values": [3.0]}
    assert again.read("losses/18") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(record=json_values)
def test_any_json_value_comes_back(tmp_path_factory, record):
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "run", {})
    run.write("record", record)
    assert run.read("record") == record


def test_another_identity_is_refused_and_names_what_differs(tmp_path):
    RunDirectory(tmp_path, IDENTITY)
    with pytest.raises(StoreError, match=r"belongs to another run: model differs. Use a new directory"):
        RunDirectory(tmp_path, {**IDENTITY, "model": "xyz"})
    with pytest.raises(StoreError, match=r"lr, seeds differ"):
        RunDirectory(tmp_path, {"model": "abc"})


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"not empty and has no manifest\.json"):
        RunDirectory(tmp_path, IDENTITY)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreError, match=r"cannot be created or read"):
        RunDirectory(tmp_path / "run", IDENTITY)


@pytest.mark.parametrize("content", [b'{"half": ', b"\xff\xfe\x00", b""])
def test_an_unreadable_record_names_the_file(tmp_path, content):
    run = RunDirectory(tmp_path, IDENTITY)
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"record\.json cannot be used: it is not JSON.* Delete it"):
        run.read("record")


def test_a_manifest_that_is_none_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(StoreError, match=r"manifest\.json cannot be used: it has no checksum.*new directory"):
        RunDirectory(tmp_path, IDENTITY)


def test_a_run_killed_while_its_manifest_was_written_can_start_again(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", killed)
    with pytest.raises(KeyboardInterrupt):
        RunDirectory(tmp_path, IDENTITY)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / ".wherefrom-left-by-kill-9").write_text("{")
    RunDirectory(tmp_path, IDENTITY).write("record", 1)


@pytest.mark.parametrize("where", ["replace", "fsync", "temporary"])
def test_a_full_disk_leaves_the_old_record_and_nothing_else(tmp_path, monkeypatch, where):
    run = RunDirectory(tmp_path, IDENTITY)
    run.write("record", "old")
    before = sorted(file.name for file in tmp_path.iterdir())

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"replace": "os.replace", "fsync": "os.fsync", "temporary": "tempfile.NamedTemporaryFile"}[where]
    monkeypatch.setattr(target, full)
    with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
        run.write("record", "new")
    monkeypatch.undo()
    assert sorted(file.name for file in tmp_path.iterdir()) == before
    assert run.read("record") == "old"


def test_files_are_readable_like_any_other(tmp_path):
    write_atomically(tmp_path / "plain.bin", b"\x00\x01")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "plain.bin").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert (tmp_path / "plain.bin").read_bytes() == b"\x00\x01"


def test_the_manifest_names_the_format(tmp_path):
    RunDirectory(tmp_path, IDENTITY)
    found = json.loads((tmp_path / "manifest.json").read_text())
    assert len(found.pop("sha256")) == 64
    assert found == {"format": 2, "model": "abc", "seeds": [0, 1], "lr": 0.1}


def test_a_run_may_hold_the_directories_of_other_runs(tmp_path):
    RunDirectory(tmp_path / "flips", IDENTITY).write("one", 1)
    RunDirectory(tmp_path, {"model": "xyz"})
    assert RunDirectory(tmp_path / "flips", IDENTITY).read("one") == 1

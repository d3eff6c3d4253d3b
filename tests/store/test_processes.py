"""Run directories under several processes at once, and under kills: real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wherefrom.errors import StoreError
from wherefrom.store import RunDirectory, remove_leftovers
from wherefrom.store.files import replacing, write_new
from wherefrom.store.leftovers import temporary_prefix

PAIRS = 20

# Two of these start each run at the same moment, then one writes until it is killed.
RUNS = f"""
import sys, time
from pathlib import Path
from wherefrom.errors import StoreError
from wherefrom.store import RunDirectory, write_atomically
folder, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
for k in range({PAIRS}):
    (folder / f"{{me}}{{k}}").touch()
    while not (folder / f"{{other}}{{k}}").exists():
        pass
    try:
        run = RunDirectory(folder / "runs" / str(k), {{"model": me}})
        for number in range(3):
            run.write(f"retrained/{{number}}", me)
        print("started", flush=True)
    except StoreError as error:
        assert "belongs to another run" in str(error), error
        print("refused", flush=True)
if me == "b":
    sys.exit()
run, number = RunDirectory(folder / "killed", {{}}), 0
print("writing", flush=True)
while True:
    number += 1
    run.write(f"deep/{{number % 7}}", list(range(20000)))
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RUNS, str(folder), me, other],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for me, other in (("a", "b"), ("b", "a"))
    ]
    said = [[process.stdout.readline().strip() for _ in range(PAIRS)] for process in started]
    assert started[0].stdout.readline().strip() == "writing"
    time.sleep(0.3)
    started[0].send_signal(signal.SIGKILL)
    for process in started:
        process.stdout.close()
        process.wait(60)
    return folder, said, started[0].pid


@pytest.mark.slow
def test_of_two_different_runs_that_start_at_once_one_is_refused(processes):
    folder, said, _ = processes
    for k, answers in enumerate(zip(*said)):
        assert sorted(answers) == ["refused", "started"]
        winner = "ab"[answers.index("started")]
        run = RunDirectory(folder / "runs" / str(k), {"model": winner})
        assert [run.read(f"retrained/{number}") for number in range(3)] == [winner] * 3
        assert sorted(entry.name for entry in run.path.iterdir()) == ["manifest.json", "retrained"]


@pytest.mark.slow
def test_after_a_kill_every_file_is_whole_and_nothing_else_is_left(processes):
    folder, _, process = processes
    left = folder / "killed" / "deep" / f"{temporary_prefix().rsplit('-', 2)[0]}-{process}-xyz"
    left.write_text("half")
    run = RunDirectory(folder / "killed", {})
    names = {file.name for file in (folder / "killed" / "deep").iterdir()}
    assert names and names <= {f"{number}.json" for number in range(7)}
    assert all(run.read(f"deep/{name[0]}") == list(range(20000)) for name in names)


def test_files_of_living_processes_are_left_alone(tmp_path):
    inner = tmp_path / "inner"
    with replacing(inner / "file") as own:
        os.utime(own, (0, 0))
        stranger = inner / ".wherefrom-0123456789ab-1-x"
        old = inner / ".wherefrom-0123456789ab-2-x"
        folder = inner / ".wherefrom-folder"
        mine = inner / "wherefrom-notes"
        for file in (stranger, old, mine):
            file.write_text("")
        for file in (old, mine):
            os.utime(file, (0, 0))
        folder.mkdir()
        remove_leftovers(tmp_path)
        assert old.exists()
        remove_leftovers(tmp_path, within=True)
        assert not old.exists() and own.exists() and stranger.exists() and folder.exists() and mine.exists()
    remove_leftovers(tmp_path / "absent")


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_is_written_once(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_):
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    assert write_new(tmp_path / "file", "first") and not write_new(tmp_path / "file", "second")
    assert (tmp_path / "file").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_run_killed_before_its_manifest_does_not_block_the_others(tmp_path):
    (tmp_path / "measured0123").mkdir()
    (tmp_path / "measured0123" / ".wherefrom-left").write_text("{")
    RunDirectory(tmp_path, {"model": "abc"}).write("record", 1)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    import resource

    run = RunDirectory(tmp_path, {})
    run.write("record", "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"record\.json could not be written .*free some space"):
            run.write("record", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert run.read("record") == "old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"manifest.json", "record.json"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_a_folder_that_cannot_be_written_to_is_named():
    with pytest.raises(StoreError, match="cannot be created or read"):
        RunDirectory("/proc/self/run", {})
    with pytest.raises(StoreError, match="could not be written"):
        write_new("/proc/self/file", json.dumps(1))

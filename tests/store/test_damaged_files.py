"""Every kind of file that is read back, damaged in every way that happens: always noticed, by name."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import wherefrom
from tests.problems import N, labels, normal, tanh_mlp
from wherefrom import Scores, load_scores, save_scores
from wherefrom.errors import StoreError
from wherefrom.store import RunDirectory, read_tensors
from wherefrom.studies.geometry.monitor_file import MonitorFile, read_records

FLIPS = 120


def fitted(run_dir, problem=None):
    problem = problem or tanh_mlp()
    options = {"curvature": "ggn", "solver": wherefrom.EKFAC(), "progress": False, "run_dir": run_dir}
    return wherefrom.Influence(problem.model, problem.data, loss=problem.loss, **options).fit()


class Files:
    """Small whole files of a kind, each with the call that reads it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.readers: dict[str, object] = {}
        getattr(self, folder.name)()

    def manifest(self):
        run = {"model": "abc", "seeds": [0, 1], "rate": 0.1}
        RunDirectory(self.folder, run)
        self.readers["manifest.json"] = lambda: RunDirectory(self.folder, run)

    def records(self):
        run = RunDirectory(self.folder, {"model": "abc"})
        for seed in (0, 1):
            name = f"retrained/seed{seed}-all"
            run.write(name, {"measured": [1.25 + seed, -0.5]})
            self.readers[f"{name}.json"] = lambda name=name: run.read(name)

    def scores(self):
        values = normal(2, 4)
        made = Scores(
            values, values.abs(), values.abs(), True, torch.tensor([True, False]), "", values[:, 0], "loss"
        )
        save_scores(made, self.folder / "scores.safetensors")
        self.readers["scores.safetensors"] = lambda: load_scores(self.folder / "scores.safetensors")

    def factors(self):
        fitted(self.folder)
        for name in ("bases", "eigenvalues"):
            file = self.folder / "kronecker" / "ekfac-exact-expand" / f"{name}.safetensors"
            self.readers[str(file.relative_to(self.folder))] = lambda file=file: read_tensors(file)

    def monitor(self):
        path = self.folder / "run.jsonl"
        file = MonitorFile(path, {"seed": 0})
        for step in range(3):
            file.append({"step": step, "loss": {"train": 0.5 / (step + 1)}, "skipped": {}})
        self.readers["run.jsonl"] = lambda: read_records(path)


KINDS = ("manifest", "records", "scores", "factors", "monitor")


@pytest.fixture(params=KINDS)
def files(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    return Files(folder)


def noticed(read) -> bool:
    """A named error, or a warning that something was left out; another exception is this test's failure."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            read()
        except StoreError as error:
            assert re.search(r"[Dd]elete|Restore|restore|[Rr]emove|new directory|another path", str(error)), (
                error
            )
            return True
    return any("unfinished" in str(warning.message) for warning in said)


def damaged(whole: bytes):
    """The same file after bit flips, cut short, and with its end zeroed, as by a lost block of a disk."""
    random = np.random.default_rng(len(whole))
    size = len(whole)
    for bit in random.choice(8 * size, min(FLIPS, 8 * size), replace=False).tolist():
        found = bytearray(whole)
        found[bit // 8] ^= 1 << bit % 8
        yield bytes(found)
    # Between two lines a cut monitor's file is that of a shorter training.
    cuts = {int(cut) for cut in random.integers(1, size, 12)} | {0, size - 1, size // 2}
    for cut in cuts:
        if cut == 0 or whole[cut - 1 : cut] != b"\n":
            yield whole[:cut]
    for zeros in {int(zeros) for zeros in random.integers(1, size, 12)} | {1, 8, size}:
        content = whole[: size - zeros] + bytes(zeros)
        if content != whole:
            yield content


def test_whatever_happens_to_a_file_is_noticed(files):
    for name, read in files.readers.items():
        path = files.folder / name
        whole = path.read_bytes()
        read()
        for number, content in enumerate(damaged(whole)):
            path.write_bytes(content)
            assert noticed(read), f"{name}: damage {number} of {len(whole)} bytes was not noticed"
        path.unlink()
        path.mkdir()
        assert noticed(read)
        path.rmdir()
        path.write_bytes(whole)
        read()


def test_an_edited_number_is_noticed(files):
    for name, read in files.readers.items():
        path = files.folder / name
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as stream:
                words = stream.metadata()
                tensors = {key: stream.get_tensor(key).clone() for key in stream.keys()}  # noqa: SIM118
            first = next(key for key, value in tensors.items() if value.is_floating_point())
            for value in (float("nan"), 1e-9):
                tensors[first].reshape(-1)[0] = value
                save_file(tensors, path, metadata=words)
                assert noticed(read)
            continue
        text = path.read_text()
        for found in re.finditer(r"(?<=[\s\[])-?\d[\d.]*", text):
            path.write_text(f"{text[: found.start()]}7{text[found.start() + 1 :]}")
            assert path.read_text() == text or noticed(read), found
        path.write_text(json.dumps(json.loads(text.splitlines()[0])) + " \n")
        assert noticed(read)


def test_files_in_each_others_place_are_noticed(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    one, other = (folder / name for name in Files(folder).readers)
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_bytes)
    run = RunDirectory(folder, {"model": "abc"})
    with pytest.raises(StoreError, match=r"it is the record 'retrained/seed1-all', not this run's"):
        run.read("retrained/seed0-all")
    elsewhere = RunDirectory(tmp_path / "other", {"model": "xyz"})
    elsewhere.write("retrained/seed0-all", {"measured": [9.0, 9.0]})
    shutil.copy(tmp_path / "other" / "retrained" / "seed0-all.json", one)
    with pytest.raises(StoreError, match=r"it is another run's, not this run's"):
        run.read("retrained/seed0-all")
    one.write_bytes(one_bytes)
    assert run.read("retrained/seed0-all") == {"measured": [1.25, -0.5]}


def test_factors_in_each_others_place_are_noticed(tmp_path):
    fitted(tmp_path / "a")
    folder = tmp_path / "a" / "kronecker" / "ekfac-exact-expand"
    shutil.copy(folder / "bases.safetensors", folder / "eigenvalues.safetensors")
    with pytest.raises(StoreError, match=r"holds 'bases', expected eigenvalues.*Delete it"):
        fitted(tmp_path / "a")
    other = tanh_mlp()
    with torch.no_grad():
        other.model[0].weight += 0.1
    fitted(tmp_path / "b", other)
    there = tmp_path / "b" / "kronecker" / "ekfac-exact-expand"
    shutil.copy(there / "eigenvalues.safetensors", folder)
    with pytest.raises(StoreError, match=r"belongs to another gathering: model, parameters differ"):
        fitted(tmp_path / "a")


def test_lines_of_a_monitor_that_were_moved_or_taken_out_are_noticed(tmp_path):
    folder = tmp_path / "monitor"
    folder.mkdir()
    Files(folder)
    path = folder / "run.jsonl"
    header, *lines = path.read_text().splitlines(keepends=True)
    for changed in ([lines[1], lines[0], lines[2]], lines[1:], [lines[0], lines[2]]):
        path.write_text("".join([header, *changed]))
        with pytest.raises(StoreError, match="does not match its checksum"):
            read_records(path)


def test_a_damaged_file_stops_what_reads_it(tmp_path):
    """Through the front door: a fit and a verification."""
    problem = tanh_mlp()
    queries = (normal(3, 4, seed=20), labels(3))
    trained = nn.Sequential(*problem.model)
    influence = fitted(tmp_path, problem)
    influence.verify(queries, lambda train, seed: trained, remove=1)
    records = [*(tmp_path / "retrained").iterdir(), tmp_path / "manifest.json"]
    factors = [*(tmp_path / "kronecker" / "ekfac-exact-expand").iterdir()]
    # With all examples, in the other order, and without one; and what the run is of.
    assert len(records) == 4 and len(factors) == 3 and len(influence.train[0]) == N
    for file in records + factors:
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] + bytes(9))
        with pytest.raises(StoreError, match=re.escape(file.name)):
            if file in factors:
                fitted(tmp_path, problem)
            else:
                influence.verify(queries, lambda train, seed: trained, remove=1)
        file.write_bytes(whole)

"""Kronecker factors that outlive a process: found again, resumed, or refused."""

from __future__ import annotations

import copy
import errno
import json
import os

import pytest
import torch
from safetensors import SafetensorError

import wherefrom
from tests.curvature.kronecker_cases import Setting
from tests.problems import N, labels, normal, tanh_mlp
from wherefrom.curvature.kronecker import KroneckerGathering, KroneckerStore, stored
from wherefrom.errors import InputError, StoreError
from wherefrom.store import read_tensors, write_tensors

BATCH = 3
BATCHES = -(-N // BATCH)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(KroneckerGathering, "batch_size", lambda self: BATCH)


def fitted(run_dir=None, *, problem=None, solver=None, **options):
    problem = problem or tanh_mlp()
    chosen = {"curvature": "ggn", "solver": solver or wherefrom.EKFAC(), "progress": False, **options}
    return wherefrom.Influence(
        problem.model, problem.data, loss=problem.loss, run_dir=run_dir, **chosen
    ).fit()


def scores(influence: wherefrom.Influence) -> torch.Tensor:
    return influence.scores((normal(4, 4, seed=20), labels(4))).values


class Counter:
    """Counts the batches that are gathered, and kills the process at one of them."""

    def __init__(self, monkeypatch, kill_at: int | None = None):
        self.batches = 0
        extend = KroneckerGathering.extend

        def counted(gathering, sums, examples, bases=None, *, batch_size=None, after_batch=None):
            def after() -> None:
                self.batches += 1
                if after_batch is not None:
                    after_batch()
                if self.batches == kill_at:
                    raise KeyboardInterrupt

            extend(gathering, sums, examples, bases, batch_size=batch_size, after_batch=after)

        monkeypatch.setattr(KroneckerGathering, "extend", counted)


@pytest.mark.parametrize(
    "solver",
    [
        wherefrom.EKFAC(),
        wherefrom.KFAC(),
        wherefrom.Diagonal(),
        wherefrom.EKFAC("sampled"),
        wherefrom.EKFAC(sharing="reduce"),
    ],
    ids=lambda solver: "-".join(map(str, solver.settings().values())),
)
def test_a_second_fit_finds_the_factors_and_gives_the_same_bits(tmp_path, monkeypatch, solver):
    expected = scores(fitted(solver=solver))
    first = scores(fitted(tmp_path, solver=solver))
    counter = Counter(monkeypatch)
    again = scores(fitted(tmp_path, solver=solver))
    assert counter.batches == 0
    assert torch.equal(first, expected) and torch.equal(again, expected)


@pytest.mark.parametrize("kill_at", [1, 2, BATCHES - 1, BATCHES, BATCHES + 1, 2 * BATCHES - 1, 2 * BATCHES])
def test_a_killed_fit_goes_on_where_it_was(tmp_path, monkeypatch, kill_at):
    expected = scores(fitted())
    monkeypatch.setattr(stored, "_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(stored, "_SHARE", 1e9)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Counter(patch, kill_at)
        fitted(tmp_path)
    counter = Counter(monkeypatch)
    assert torch.equal(scores(fitted(tmp_path)), expected)
    assert counter.batches == 2 * BATCHES - kill_at


def test_a_fit_killed_before_anything_was_written_starts_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Counter(patch, 2)
        fitted(tmp_path)
    counter = Counter(monkeypatch)
    assert torch.equal(scores(fitted(tmp_path)), scores(fitted()))
    assert counter.batches == 2 * 2 * BATCHES  # this fit and the one without a directory


def test_a_resumed_fit_keeps_its_batch_size_unless_memory_has_become_short(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(stored, "_SHARE", 1e9)
    # Examples 3..10 of the first pass in the old batches of 3, or in new ones of 2; then the second pass.
    for size, batches in ((7, 3 + 2), (2, 4 + 6)):
        folder = tmp_path / str(size)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            Counter(patch, 1)
            fitted(folder)
        with monkeypatch.context() as patch:
            patch.setattr(KroneckerGathering, "batch_size", lambda self, size=size: size)
            counter = Counter(patch)
            KroneckerStore(folder, Setting(tanh_mlp()).gathering()).curvature()
        assert counter.batches == batches


def changed_model(problem):
    with torch.no_grad():
        problem.model[0].weight[0, 0] += 1e-9


def changed_data(problem):
    x, y = problem.data
    problem.data = (x, y.roll(1))


def changed_loss(problem):
    problem.loss = wherefrom.CrossEntropy(label_smoothing=0.1)


@pytest.mark.parametrize(
    "change, named",
    [
        (changed_model, "model, parameters differ"),
        (changed_data, "train differs"),
        (changed_loss, "loss differs"),
    ],
)
def test_another_model_data_set_or_loss_is_refused(tmp_path, change, named):
    fitted(tmp_path)
    problem = tanh_mlp()
    change(problem)
    with pytest.raises(StoreError, match=rf"belongs to another run: {named}.*new directory"):
        fitted(tmp_path, problem=problem)


def test_other_options_are_refused_or_have_a_folder_of_their_own(tmp_path):
    drawn = wherefrom.EKFAC("sampled")
    fitted(tmp_path, solver=drawn)
    with pytest.raises(StoreError, match="seed differs"):
        fitted(tmp_path, solver=drawn, seed=1)
    with pytest.raises(StoreError, match="draws differs"):
        fitted(tmp_path, solver=wherefrom.EKFAC("sampled", draws=2))
    with pytest.raises(StoreError, match="parameters differ"):
        fitted(tmp_path, solver=drawn, parameters="0")
    with pytest.raises(StoreError, match="dtype"):
        fitted(tmp_path, solver=drawn, dtype=torch.float32)
    with pytest.raises(StoreError, match="forward differs"):
        fitted(tmp_path, solver=drawn, forward=lambda model, batch: 2 * model(batch[0]))
    for solver in (wherefrom.EKFAC(), wherefrom.KFAC(), wherefrom.EKFAC(sharing="reduce")):
        assert torch.equal(scores(fitted(tmp_path, solver=solver)), scores(fitted(solver=solver)))
    names = {folder.name for folder in (tmp_path / "kronecker").iterdir()}
    assert names == {"ekfac-sampled-expand", "ekfac-exact-expand", "kfac-exact-expand", "ekfac-exact-reduce"}


def test_the_manifest_says_what_the_factors_belong_to(tmp_path):
    fitted(tmp_path, solver=wherefrom.EKFAC("sampled", draws=2), seed=5)
    folder = tmp_path / "kronecker" / "ekfac-sampled-expand"
    assert {file.name for file in folder.iterdir()} == {
        "manifest.json",
        "bases.safetensors",
        "eigenvalues.safetensors",
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    expected = {"method": "ekfac", "labels": "sampled", "draws": 2, "seed": 5, "dtype": "float64"}
    assert expected.items() <= manifest.items()
    assert manifest["blocks"] == {"0": ["matrix", 1, 5, 5], "2": ["matrix", 1, 3, 6]}


def test_retrainings_and_factors_share_a_directory(tmp_path):
    problem = tanh_mlp()
    model = problem.model

    def recipe(train, seed):
        return copy.deepcopy(model)

    queries = (normal(3, 4, seed=20), labels(3))
    for _ in range(2):
        influence = fitted(tmp_path, problem=problem)
        influence.verify(queries, recipe, remove=2)
    assert {entry.name for entry in tmp_path.iterdir()} == {"manifest.json", "kronecker", "retrained"}


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"no run directory"):
        fitted(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreError, match=r"cannot be created or read"):
        fitted(tmp_path / "run")


@pytest.mark.parametrize("where", ["save_file", "replace", "temporary"])
def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path, monkeypatch, where):
    no_space = OSError(errno.ENOSPC, "No space left on device")

    def full(*arguments, **_options):
        if where == "save_file":
            raise SafetensorError("I/O error: No space left on device")
        if where == "temporary" or str(arguments[1]).endswith(".safetensors"):
            raise no_space
        os.rename(*arguments)

    fitted(tmp_path, solver=wherefrom.Diagonal())
    targets = {"save_file": "wherefrom.store.tensors.save_file", "replace": "os.replace"}
    with monkeypatch.context() as patch:
        patch.setattr(targets.get(where, "tempfile.NamedTemporaryFile"), full)
        with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
            fitted(tmp_path)
    folder = tmp_path / "kronecker" / "ekfac-exact-expand"
    assert {file.name for file in folder.iterdir()} <= {"manifest.json"}
    assert torch.equal(scores(fitted(tmp_path)), scores(fitted()))


def test_a_damaged_file_is_named(tmp_path):
    fitted(tmp_path)
    file = tmp_path / "kronecker" / "ekfac-exact-expand" / "eigenvalues.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"eigenvalues\.safetensors cannot be used: .*Delete it"):
        fitted(tmp_path)
    file.unlink()
    assert torch.equal(scores(fitted(tmp_path)), scores(fitted()))


def test_merged_parts_are_found_by_a_fit(tmp_path, monkeypatch):
    gathering = Setting(tanh_mlp()).gathering(labels="auto")
    store = KroneckerStore(tmp_path, gathering)
    moments = gathering.moments(range(6))
    moments.merge(gathering.moments(range(6, N)))
    store.keep(moments)
    bases = gathering.bases(moments)
    store.keep_bases(bases)
    other = Setting(tanh_mlp()).gathering(labels="sampled")
    strange = gathering.eigenvalues(other.bases(other.moments()))
    with pytest.raises(InputError, match="other bases"):
        store.keep(strange)
    sums = gathering.eigenvalues(bases, range(6))
    sums.merge(gathering.eigenvalues(bases, range(6, N)))
    store.keep(sums)
    counter = Counter(monkeypatch)
    found = scores(fitted(tmp_path))
    assert counter.batches == 0
    torch.testing.assert_close(found, scores(fitted()), rtol=1e-9, atol=1e-12)


def test_a_conjugate_gradient_run_keeps_its_preconditioner(tmp_path, monkeypatch):
    solver = wherefrom.CG(preconditioner=wherefrom.EKFAC())
    first = scores(fitted(tmp_path, solver=solver, damping=wherefrom.RelativeDamping()))
    counter = Counter(monkeypatch)
    again = scores(fitted(tmp_path, solver=solver, damping=wherefrom.RelativeDamping()))
    assert counter.batches == 0 and torch.equal(first, again)


def test_what_killed_processes_left_is_swept_but_not_what_is_being_written(tmp_path):
    fitted(tmp_path)
    folder = tmp_path / "kronecker" / "ekfac-exact-expand"
    (tmp_path / "retrained").mkdir()
    places = (tmp_path, folder, tmp_path / "retrained")
    left, fresh = ([place / name for place in places] for name in (".wherefrom-left", ".wherefrom-fresh"))
    for file in (*left, *fresh):
        file.write_bytes(b"half")
    for file in left:
        os.utime(file, (0, 0))
    fitted(tmp_path)
    assert not any(file.exists() for file in left) and all(file.exists() for file in fresh)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bases", lambda value: value * float("nan"), "holds NaN or infinity"),
        ("bases", lambda value: value.float(), r"of torch.float32, expected .* of torch.float64"),
        ("bases", lambda value: value[..., :-1], r"expected \("),
        ("eigenvalues", lambda value: value / 0, "holds NaN or infinity"),
        ("eigenvalues", lambda value: value[..., :-1], r"expected \("),
        ("eigenvalues", None, "does not hold what every block has: '0'"),
    ],
)
def test_a_whole_file_of_something_else_is_named(tmp_path, name, change, message):
    fitted(tmp_path)
    file = tmp_path / "kronecker" / "ekfac-exact-expand" / f"{name}.safetensors"
    tensors, words = read_tensors(file)
    first = min(tensors)
    changed = {} if change is None else {first: change(tensors[first])}
    write_tensors(file, {**{key: tensors[key] for key in tensors if key != first}, **changed}, words)
    with pytest.raises(StoreError, match=rf"{name}\.safetensors cannot be used .*{message}.*Delete it"):
        fitted(tmp_path)


def test_sums_of_examples_that_do_not_exist_are_named(tmp_path):
    fitted(tmp_path)
    file = tmp_path / "kronecker" / "ekfac-exact-expand" / "eigenvalues.safetensors"
    tensors, words = read_tensors(file)
    write_tensors(file, tensors, {**words, "covered": f"0:{N + 1}"})
    with pytest.raises(StoreError, match=r"covers examples outside"):
        fitted(tmp_path)

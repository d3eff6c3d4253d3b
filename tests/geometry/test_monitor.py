"""What a monitor writes, against autograd; what it leaves untouched; and its file, killed and resumed."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from wherefrom.errors import InputError, StoreError
from wherefrom.store.sealed import seal
from wherefrom.studies.geometry import Monitor, plot_monitor, read_monitor
from wherefrom.studies.geometry.monitor import _random_states_kept

pytest.importorskip("pandas")


def problem(seed: int = 0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(20, 4, dtype=torch.float64)
    return model, x, torch.arange(20) % 3


def monitor(model, x, y, path, **options):
    return Monitor(model, (x, y), loss="cross_entropy", path=path, **{"every": 1, **options})


def test_quantities_against_autograd(tmp_path):
    model, x, y = problem()
    record = monitor(model, x, y, tmp_path / "m.jsonl", held_out=(x[:7], y[:7])).step(0)
    parameters = list(model.parameters())

    def loss(chosen=slice(None)):
        return nn.functional.cross_entropy(model(x[chosen]), y[chosen])

    def gradient(value, **options):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, **options)])

    each = torch.stack([gradient(loss(slice(i, i + 1))).norm() for i in range(20)])
    mean = gradient(loss(), create_graph=True)
    hessian = torch.stack([gradient(entry, retain_graph=True) for entry in mean])
    assert record["loss"]["train"] == pytest.approx(float(loss().detach()), rel=1e-10)
    assert record["loss"]["held_out"] == pytest.approx(float(loss(slice(7)).detach()), rel=1e-10)
    assert record["gradient"]["squared_norm"] == pytest.approx(float(mean.detach().square().sum()), rel=1e-9)
    assert record["gradient"]["norm_mean"] == pytest.approx(float(each.mean()), rel=1e-9)
    assert record["gradient"]["norm_0.9"] == pytest.approx(float(each.quantile(0.9)), rel=1e-9)
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    assert abs(record["sharpness"]["largest"] - largest) <= record["sharpness"]["residual"] + 1e-8
    jacobians = torch.func.vmap(torch.func.jacrev(lambda one: model(one)))(x)
    assert record["complexity"]["value"] == pytest.approx(float(jacobians.detach().square().sum()) / 20)
    assert record["weights"]["0"] == pytest.approx(float(torch.linalg.svdvals(model[0].weight.detach())[0]))
    assert 0 < record["bounds"]["left"] <= record["bounds"]["right"]
    assert record["skipped"] == {}


def test_nothing_of_the_training_changes(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.dropout, self.norm = nn.Linear(4, 5), nn.Dropout(0.5), nn.BatchNorm1d(5)
            self.out = nn.Linear(5, 3)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.out(self.dropout(self.norm(self.inner(x)).tanh()))

    torch.manual_seed(0)
    model = Counting()
    model.norm.eval()
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    nn.functional.cross_entropy(model(x), y).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    np.random.seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    with torch.no_grad():
        watching = monitor(model, x, y, tmp_path / "m.jsonl", examples=9, probes=2)
        record = watching.step(0)
    assert set(record) >= {"loss", "gradient", "complexity", "sharpness", "weights"}
    assert model.calls == 1
    assert [module.training for module in model.modules()] == modes
    for parameter, gradient in zip(model.parameters(), gradients):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    assert bool((torch.get_rng_state() == before[0]).all())
    assert bool((np.random.get_state()[1] == before[1]).all())


def test_random_states_are_kept_whatever_the_users_code_draws():
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with _random_states_kept():  # alone: the checks of the tests' types draw from Python's generator
        random.random(), np.random.rand(3), torch.rand(3)
    after = random.getstate(), np.random.get_state()[1], torch.get_rng_state()
    assert after[0] == before[0]
    assert bool((after[1] == before[1]).all()) and bool((after[2] == before[2]).all())


def test_what_has_no_bound_or_no_gradient_in_its_input_is_skipped_with_the_reason(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = torch.randint(0, 6, (8, 3))
    watching = monitor(model, tokens, torch.arange(8) % 2, tmp_path / "m.jsonl")
    record = watching.step(0)
    assert set(record["skipped"]) == {"complexity", "bounds"}
    assert "token" in record["skipped"]["complexity"]
    assert "loss" in record and "sharpness" in record
    assert "skipped.bounds" in read_monitor(tmp_path / "m.jsonl").columns


def test_a_diverged_training_is_recorded_not_stopped(tmp_path):
    model, x, y = problem()
    watching = monitor(model, x, y, tmp_path / "m.jsonl")
    watching.step(0)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    record = watching.step(1)
    assert "NaN" in record["skipped"]["loss"] and "loss" not in record
    assert len(read_monitor(tmp_path / "m.jsonl")) == 2


def test_only_every_nth_step_and_within_the_share(tmp_path):
    model, x, y = problem()
    watching = monitor(model, x, y, tmp_path / "m.jsonl", every=2, record=("loss",), share=0.5)
    now = [0.0]

    def clock():  # every look at the clock is a second later: a record takes one
        now[0] += 1.0
        return now[0]

    watching._clock = clock
    written = [step for step in range(24) if watching.step(step) is not None]
    assert written[0] == 0 and all(step % 2 == 0 for step in written)
    assert len(written) < 12
    assert watching.seconds <= 0.5 * (now[0] - watching.seconds)
    passed = read_monitor(tmp_path / "m.jsonl")["passed_over"]
    assert passed.sum() + len(written) >= written[-1] // 2 + 1


def test_a_killed_file_loses_its_last_line_only_and_goes_on(tmp_path):
    model, x, y = problem()
    path = tmp_path / "m.jsonl"
    first = monitor(model, x, y, path, record=("loss", "weights"))
    for step in range(4):
        first.step(step)
    path.write_bytes(path.read_bytes()[:-15])
    with pytest.warns(UserWarning, match="last line is unfinished"):
        assert list(read_monitor(path).index) == [0, 1, 2]
    with torch.no_grad():
        model[0].weight.add_(1)
    again = monitor(model, x, y, path, record=("loss", "weights"))
    again.step(1)  # the training went back to a checkpoint
    again.step(5)
    table = read_monitor(path)
    assert list(table.index) == [0, 1, 5]
    assert table["weights.0"][1] == pytest.approx(float(torch.linalg.svdvals(model[0].weight.detach())[0]))
    for line in path.read_bytes().splitlines():
        json.loads(line)


def test_another_runs_file_is_refused(tmp_path):
    model, x, y = problem()
    path = tmp_path / "m.jsonl"
    monitor(model, x, y, path, record=("loss",))
    with pytest.raises(StoreError, match="another run"):
        monitor(nn.Linear(4, 3).double(), x, y, path, record=("loss",))
    with pytest.raises(StoreError, match="train"):
        monitor(model, x + 1, y, path, record=("loss",))
    with pytest.raises(StoreError, match="record"):
        monitor(model, x, y, path, record=("weights",))
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(StoreError, match="no monitor's file"):
        monitor(model, x, y, other)
    assert other.read_text() == "mine"
    with pytest.raises(StoreError, match="cannot be written"):
        monitor(model, x, y, tmp_path / "absent" / "m.jsonl")


def test_broken_files_are_refused(tmp_path):
    path = tmp_path / "m.jsonl"
    with pytest.raises(StoreError, match="cannot be read"):
        read_monitor(path)
    path.write_text('{"a": 1}\n')
    with pytest.raises(StoreError, match="no monitor's file"):
        read_monitor(path)
    model, x, y = problem()
    path.unlink()
    monitor(model, x, y, path, record=("loss",))
    with pytest.raises(InputError, match="no record"):
        plot_monitor(path, tmp_path / "m.png")
    assert len(read_monitor(path)) == 0
    whole = path.read_text()
    path.write_text(whole + "{broken\n")
    with pytest.raises(StoreError, match="line 2 cannot be used: it is not JSON"):
        read_monitor(path)
    path.write_text(whole + "{}\n")
    with pytest.raises(StoreError, match="line 2 cannot be used: it has no checksum"):
        read_monitor(path)
    path.write_text(whole + seal({"a": 1}, after=json.loads(whole)["sha256"]) + "\n")
    with pytest.raises(StoreError, match="no step"):
        read_monitor(path)
    path.write_text(seal({"format": "wherefrom monitor", "version": 1}) + "\n")
    with pytest.raises(StoreError, match=r"version 2 .it says version 1.*delete the file"):
        read_monitor(path)


def test_plot(tmp_path):
    model, x, y = problem()
    path = tmp_path / "m.jsonl"
    watching = monitor(model, x, y, path)
    watching.step(0)
    watching.step(1)
    out = plot_monitor(path, tmp_path / "m.png")
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="ending"):
        plot_monitor(path, tmp_path / "m.words")


@pytest.mark.parametrize("kind", ["tuple", "dataset", "items"])
def test_the_same_examples_are_drawn_from_any_container(tmp_path, kind):
    model, x, y = problem()
    data = {"tuple": (x, y), "dataset": TensorDataset(x, y), "items": list(zip(x, y))}[kind]
    watching = Monitor(
        model, data, loss="cross_entropy", path=tmp_path / "m.jsonl", examples=6, record=("loss",)
    )
    chosen = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:6]
    expected = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
    assert watching.step(0)["loss"]["train"] == pytest.approx(float(expected.detach()), rel=1e-10)


def test_refusals(tmp_path):
    model, x, y = problem()
    path = tmp_path / "m.jsonl"
    for options, message in (
        ({"every": 0}, "every"),
        ({"examples": 0}, "examples"),
        ({"share": 0.0}, "share"),
        ({"record": ("lost",)}, "record"),
        ({"record": ()}, "record"),
        ({"curvature": "fisher"}, "curvature"),
    ):
        with pytest.raises(InputError, match=message):
            monitor(model, x, y, path, **options)
    watching = monitor(model, x, y, path, record=("loss",))
    watching.step(3)
    for step in (3, -1):
        with pytest.raises(InputError, match="rise"):
            watching.step(step)

    class Uncopied(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("not this one")

    with pytest.raises(InputError, match="cannot be copied"):
        monitor(Uncopied(4, 3).double(), x, y, tmp_path / "n.jsonl")


def test_what_overflows_is_skipped_not_written(tmp_path):
    model, x, _ = problem()
    made = Monitor(
        model.float(), (x.float(), torch.full((20, 3), 1e30)), loss="squared_error", path=tmp_path / "m.jsonl"
    )
    record = made.step(0)
    assert {"loss", "sharpness"} <= set(record["skipped"])
    assert "loss" not in record and "train is inf" in record["skipped"]["loss"]
    assert "weights" in record


def test_the_trainer_a_module_refers_to_is_not_copied(tmp_path):
    class Trainer:
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    model, x, y = problem()
    trainer = model._trainer = Trainer()
    record = monitor(model, x, y, tmp_path / "m.jsonl", record=("loss",)).step(0)
    assert record["loss"]["train"] > 0
    assert model._trainer is trainer

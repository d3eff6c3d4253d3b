"""The callback on a stand-in for Lightning's trainer, and its refusal where Lightning is absent."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from wherefrom.errors import UnsupportedError
from wherefrom.studies.geometry import lightning_monitor
from wherefrom.studies.geometry.monitor_file import read_records


@pytest.fixture
def lightning(monkeypatch):
    package, inner = ModuleType("lightning"), ModuleType("lightning.pytorch")
    inner.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", inner)
    return inner


def run(path, *, zero=True):
    torch.manual_seed(0)
    whole = nn.ModuleDict({"net": nn.Linear(3, 2)})
    data = (torch.randn(8, 3), torch.arange(8) % 2)
    callback = lightning_monitor(
        data, loss="cross_entropy", path=path, module=lambda whole: whole["net"], every=2, record=("loss",)
    )
    trainer = SimpleNamespace(global_step=0, is_global_zero=zero)
    callback.on_train_start(trainer, whole)
    for batch in range(10):
        trainer.global_step = (batch + 1) // 2  # two batches accumulate to one step
        callback.on_train_batch_end(trainer, whole, None, data, batch)
    return callback


def test_one_record_per_due_step(tmp_path, lightning):
    callback = run(tmp_path / "m.jsonl")
    assert isinstance(callback, lightning.Callback)
    assert [record["step"] for record in read_records(tmp_path / "m.jsonl")[1]] == [0, 2, 4]


def test_other_processes_write_nothing(tmp_path, lightning):
    run(tmp_path / "m.jsonl", zero=False)
    assert not (tmp_path / "m.jsonl").exists()


def test_without_lightning(tmp_path, monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedError, match=r"wherefrom\[lightning\]"):
        lightning_monitor((), loss="cross_entropy", path=tmp_path / "m.jsonl")

"""What counts as another function: everything that can be seen to change what it does."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from wherefrom import FullBatch
from wherefrom.store.fingerprint import fingerprint


def closing_over(value):
    return lambda train, seed: (value, train, seed)


def with_default(value):
    return lambda train, seed, extra=value: (extra, train, seed)


def with_keyword(value):
    def recipe(train, seed, *, extra=value):
        return extra, train, seed

    return recipe


def bound(value):
    return functools.partial(closing_over(0), value)


class Holding:
    def __init__(self, value):
        self.value = value

    def __call__(self, train, seed):
        return self.value


class Settled(Holding):
    def settings(self):
        return {"value": self.value}


def linear(seed):
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


VALUES = [
    (lambda: 0.1, lambda: 0.2),
    (lambda: {"rate": [1, 2]}, lambda: {"rate": [1, 3]}),
    (lambda: {"a", "b"}, lambda: {"a", "c"}),
    (lambda: torch.zeros(3), lambda: torch.ones(3)),
    (lambda: np.zeros(3), lambda: np.zeros(3, dtype=np.float32)),
    (lambda: TensorDataset(torch.zeros(3)), lambda: TensorDataset(torch.ones(3))),
    (lambda: linear(0), lambda: linear(1)),
    (lambda: nn.Dropout(0.1), lambda: nn.Dropout(0.2)),
    (lambda: closing_over(1), lambda: closing_over(2)),
    (lambda: Holding(1).__call__, lambda: Holding(2).__call__),
    (lambda: torch.float32, lambda: torch.float64),
]


@pytest.mark.parametrize(("one", "other"), VALUES)
@pytest.mark.parametrize("make", [closing_over, with_default, with_keyword, bound, Holding, Settled])
def test_a_value_that_a_function_carries_counts(make, one, other):
    assert fingerprint(make(one())) == fingerprint(make(one()))
    assert fingerprint(make(one())) != fingerprint(make(other()))


def test_two_functions_on_one_line_differ():
    first, second = (lambda x: x + 1), (lambda x: x + 2)
    assert fingerprint(first) != fingerprint(second)


def test_settings_say_what_counts():
    class Counting(Holding):
        def settings(self):
            return {}

    assert fingerprint(Counting(1)) == fingerprint(Counting(2))


def test_a_value_that_holds_itself_ends():
    value = []
    value.append(value)
    assert fingerprint(closing_over(value)) == fingerprint(closing_over(value))


def test_the_model_of_a_ready_made_recipe_counts():
    def made(seed, rate=0.1):
        return FullBatch(linear(seed), loss="cross_entropy", weight_decay=rate)

    assert fingerprint(made(0)) == fingerprint(made(0))
    assert len({fingerprint(made(0)), fingerprint(made(1)), fingerprint(made(0, 0.2))}) == 3


PROJECT = """
import steps
from steps import fit
RATE = {rate}
def inner(x):
    return x * {factor}
def recipe(train, seed):
    return [fit(steps.prepare(inner(train)), RATE) for _ in {{"a", "b", "c", "d"}}]
"""
STEPS = """
def fit(x, rate):
    return x + {shift}
def prepare(x):
    return x - {offset}
"""


@pytest.mark.slow
def test_functions_and_values_that_the_code_names_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    usual = {"rate": 1, "factor": 2, "shift": 3, "offset": 4}

    def made(**changed):
        values = {**usual, **changed}
        (tmp_path / "project.py").write_text(PROJECT.format(**values))
        (tmp_path / "steps.py").write_text(STEPS.format(**values))
        for name in ("project", "steps"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return fingerprint(importlib.import_module("project").recipe)

    seen = [made(), *(made(**{name: 9}) for name in usual)]
    assert len(set(seen)) == 5 and made() == seen[0]
    # Another process hashes strings, and so orders sets, in its own way.
    code = (
        "import project; from wherefrom.store.fingerprint import fingerprint as f; print(f(project.recipe))"
    )
    for salt in ("1", "2"):
        again = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        assert again.stdout.strip() == seen[0]
    for name in ("project", "steps"):
        sys.modules.pop(name, None)

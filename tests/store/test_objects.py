"""Results come back from files as they were, and nothing else does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from wherefrom.errors import StoreError, UnsupportedError
from wherefrom.influence import Resolution
from wherefrom.linalg import Eigenpairs
from wherefrom.store import read_object, read_tensors, write_object, write_tensors


def test_everything_comes_back_as_it_was(tmp_path):
    pairs = Eigenpairs(torch.tensor([2.0, 1 / 3]), torch.eye(3)[:, :2], torch.zeros(2).double(), 7, True)
    made = {
        "pairs": (pairs, Resolution(False, "within “errors”")),
        3: [None, True, -0.1, math.inf, -math.inf, "words", np.float64(0.3), np.int64(4)],
        "array": np.arange(3)[::-1],
        "empty": (torch.empty(0, 2), torch.tensor([True, False]), [], ()),
    }
    write_object(tmp_path / "a.safetensors", made)
    found = read_object(tmp_path / "a.safetensors")
    assert list(found) == list(made) and found[3] == made[3]
    read, resolution = found["pairs"]
    assert isinstance(read, Eigenpairs) and resolution == made["pairs"][1]
    for name in ("values", "vectors", "residuals"):
        assert torch.equal(getattr(read, name), getattr(pairs, name))
        assert getattr(read, name).dtype == getattr(pairs, name).dtype
    assert (read.products, read.converged) == (7, True)
    assert isinstance(found["array"], np.ndarray) and found["array"].tolist() == [2, 1, 0]
    assert found["empty"][0].shape == (0, 2) and found["empty"][1].tolist() == [True, False]
    assert found["empty"][2:] == ([], ())
    write_object(tmp_path / "nan.safetensors", math.nan)
    assert math.isnan(read_object(tmp_path / "nan.safetensors"))


@dataclass(frozen=True)
class Own:
    number: int = 1


@pytest.mark.parametrize("value", [Own(), object(), {1, 2}, [lambda: 0]])
def test_what_is_no_result_of_this_package_is_not_written(tmp_path, value):
    with pytest.raises(UnsupportedError, match="cannot be kept"):
        write_object(tmp_path / "a.safetensors", value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        '{"object": ["os", "system", {}]}',
        '{"object": ["wherefrom.store.objects", "import_module", {}]}',
        '{"object": ["wherefrom.store.gone", "Own", {}]}',
        '{"object": ["wherefrom.linalg", "Eigenpairs", {"values": 1}]}',
        '{"tensor": "0"}',
        '{"code": 1}',
        "[",
    ],
)
def test_a_file_names_nothing_but_results(tmp_path, words):
    write_tensors(tmp_path / "a.safetensors", {}, {"kind": "wherefrom-object-1", "value": words})
    with pytest.raises(StoreError, match="of another version"):
        read_object(tmp_path / "a.safetensors")
    write_tensors(tmp_path / "a.safetensors", {}, {"kind": "wherefrom-scores-2", "value": words})
    with pytest.raises(StoreError, match="holds no result"):
        read_object(tmp_path / "a.safetensors")


def test_the_same_content_is_the_same_file(tmp_path):
    words = {name: f"“{name}” \n \x01 / é" for name in ("kind", "value", "more", "words", "of", "it")}
    tensors = {"b": torch.eye(2), "a": torch.arange(3)}
    for k in range(8):
        write_tensors(tmp_path / f"{k}.safetensors", tensors, words)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    found, said = read_tensors(tmp_path / "0.safetensors")
    assert said == words and all(torch.equal(found[name], tensors[name]) for name in tensors)

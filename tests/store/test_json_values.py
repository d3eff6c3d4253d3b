"""JSON that every reader accepts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wherefrom.store.json_values import dump_json, json_values


def test_numbers_that_json_does_not_know_become_null():
    value = {"a": [1.5, float("inf"), (float("nan"), -float("inf"))], 3: {"b": True, "c": None}}
    assert json_values(value) == {"a": [1.5, None, [None, None]], "3": {"b": True, "c": None}}
    assert json_values(np.float64("inf")) is None


@pytest.mark.parametrize("indent", [None, 2])
def test_the_text_is_strict_json(indent):
    def refuse(constant):
        raise AssertionError(constant)

    text = dump_json({"distance": float("nan"), "path": Path("a") / "b", "n": 3}, indent=indent)
    assert json.loads(text, parse_constant=refuse) == {"distance": None, "path": str(Path("a/b")), "n": 3}

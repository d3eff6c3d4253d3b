"""Scores on disk: safetensors with the settings as JSON metadata; nothing in the file can run code."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wherefrom.errors import NonFiniteError, StoreError
from wherefrom.influence.scores import Scores
from wherefrom.store import read_tensors, write_tensors
from wherefrom.store.json_values import dump_json

_KIND = "wherefrom-scores-2"  # 1 had no checksum
_ADVICE = "Compute the scores again and save them, or restore the file from a copy."
_MATRICES = ("values", "error", "bound")
_ROWS = ("converged", "relative_residual")


def save_scores(scores: Scores, path: str | Path) -> None:
    """Write scores, errors and settings to one file with a checksum, whole or not at all.

    Settings are kept as JSON: a number there that is not finite (a distance that was not measured) comes back
    as `None`.

    Raises:
        NonFiniteError: scores or errors are NaN.
        StoreError: the file cannot be written.
    """
    values = {entry.name: getattr(scores, entry.name) for entry in fields(scores)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    wrong = _wrong(tensors)
    if wrong is not None:
        raise NonFiniteError(f"scores cannot be saved: {wrong}")
    described = {name: value for name, value in values.items() if name not in tensors}
    write_tensors(path, tensors, {"kind": _KIND, "scores": dump_json(described)})


def load_scores(path: str | Path) -> Scores:
    """Read what `save_scores` wrote.

    Raises:
        StoreError: the file cannot be read, was damaged or edited, or holds something else.
    """
    tensors, words = read_tensors(path, advice=_ADVICE)
    if words.get("kind") != _KIND:
        raise _unusable(
            path, f"it holds no scores of this version (kind {words.get('kind')!r}, not {_KIND!r})"
        )
    wrong = _wrong(tensors)
    if wrong is not None:
        raise _unusable(path, wrong)
    try:
        found: dict[str, Any] = {**json.loads(words["scores"]), **tensors}
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, f"its header is damaged: {error}") from error
    known = {entry.name for entry in fields(Scores)}
    needed = {
        entry.name
        for entry in fields(Scores)
        if entry.default is MISSING and entry.default_factory is MISSING
    }
    if not needed <= set(found) <= known:
        odd = sorted((needed - set(found)) | (set(found) - known))
        raise _unusable(path, f"{', '.join(odd)} is missing or not known")
    return Scores(**found)


def _wrong(tensors: dict[str, Tensor]) -> str | None:
    """What is the matter with the tensors of scores, if anything."""
    values = tensors.get("values")
    if values is None or values.ndim != 2 or not values.is_floating_point():
        return "values is no matrix of numbers, queries × train"
    for names, shape in ((_MATRICES, values.shape), (_ROWS, values.shape[:1])):
        for name in names:
            found = tensors.get(name)
            if found is None or found.shape != shape:
                return f"{name} has not the shape {tuple(shape)}"
            if (found.dtype == torch.bool) != (name == "converged"):
                return f"{name} is of dtype {found.dtype}"
            # A residual that was not measured is NaN.
            if name != "relative_residual" and bool(torch.isnan(found).any()):
                return f"{name} holds NaN"
    return "values holds infinity" if bool(torch.isinf(values).any()) else None


def _unusable(path: str | Path, why: str) -> StoreError:
    return StoreError(f"{path} cannot be used: {why}. {_ADVICE}")

"""Scores on disk: safetensors with the settings as JSON metadata; nothing in the file can run code."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch

from whence.errors import StoreError
from whence.influence.scores import Scores
from whence.store import write_atomically
from whence.store.json_values import dump_json

_KIND = "whence-scores-1"
_TENSORS = ("values", "estimate", "bound", "converged", "relative_residual")
_FIELDS = ("bound_proven", "reason", "measurement", "higher_is_better", "settings")


def save_scores(scores: Scores, path: str | Path) -> None:
    """Write scores, errors and settings to one file, whole or not at all.

    Settings are kept as JSON: a number there that is not finite (a distance that was not measured) comes back
    as `None`.

    Raises:
        StoreError: the file cannot be written.
    """
    tensors = {name: getattr(scores, name).contiguous() for name in _TENSORS}
    described = {name: getattr(scores, name) for name in _FIELDS}
    metadata = {"kind": _KIND, "scores": dump_json(described)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_scores(path: str | Path) -> Scores:
    """Read what `save_scores` wrote.

    Raises:
        StoreError: the file cannot be read or holds something else.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as stream:
            metadata = stream.metadata() or {}
            if metadata.get("kind") != _KIND:
                raise StoreError(
                    f"{path} holds no scores of this version (kind {metadata.get('kind')!r}, expected "
                    f"{_KIND!r})"
                )
            tensors = {name: stream.get_tensor(name) for name in _TENSORS}
    except (OSError, safetensors.SafetensorError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} cannot be read as scores: {error}") from error
    return Scores(**tensors, **json.loads(metadata["scores"]))

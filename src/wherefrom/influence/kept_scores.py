"""Scores that a run has computed before: looked up in its directory, and kept there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wherefrom.errors import StoreError
from wherefrom.influence.attributor import Attributor, Measured
from wherefrom.influence.identity import identity_of
from wherefrom.influence.measurements import resolve_measurement
from wherefrom.influence.scores import Scores
from wherefrom.influence.scores_file import load_scores, save_scores
from wherefrom.influence.self_scores import SelfScores
from wherefrom.store import fingerprint, read_tensors, write_tensors
from wherefrom.store.json_values import dump_json
from wherefrom.store.run_directory import SCORES

_KIND = "wherefrom-self-scores-1"
_ADVICE = "Remove the file, and it is computed again."
# What may differ from run to run and changes scores by rounding at most.
_PASSING = ("memory", "batch_size", "solver_reason", "solver_notes", "damping_reason", "curvature_reason")


def identity_with_settings(attributor: Attributor) -> str:
    """A fingerprint of everything that decides scores: model, data and the settings of the method."""
    settings = {key: value for key, value in attributor.settings().items() if key not in _PASSING}
    return fingerprint([attributor.identity, settings])


def scores_of(
    attributor: Attributor, queries: Any, measurement: Measured = "loss", *, refine: int = 0
) -> Scores:
    """`attributor.scores`, or what an earlier study of the same run directory kept of them.

    Args:
        attributor: with a `run_dir`, or nothing is kept.
        queries, measurement: as for its `scores`.
        refine: handed on where it is not 0, which influence functions take.

    Raises:
        StoreError: what was kept is damaged, or cannot be written.
    """

    def computed() -> Scores:
        return attributor.scores(queries, measurement, **({"refine": refine} if refine else {}))

    if attributor.run_dir is None:
        return computed()
    objective = attributor.objective
    measured = resolve_measurement(measurement, objective.loss)
    identity = identity_of(attributor.identity, objective.read(queries, role="queries"), measured)
    path = _place(attributor, [identity, refine])
    if path.exists():
        return load_scores(path)
    made = computed()
    save_scores(made, path)
    return made


def self_scores_of(attributor: Attributor, indices: Sequence[int] | Tensor | None = None) -> SelfScores:
    """`attributor.self_scores`, or what was kept of them; see `scores_of`.

    Raises:
        UnsupportedError: the method has none.
        StoreError: what was kept is damaged, or cannot be written.
    """
    if attributor.run_dir is None:
        return attributor.self_scores(indices)
    wanted = None if indices is None else torch.as_tensor(indices).tolist()
    path = _place(attributor, ["self", wanted])
    if path.exists():
        return _read(path)
    made = attributor.self_scores(indices)
    values = {entry.name: getattr(made, entry.name) for entry in fields(made)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in values.items() if name not in tensors}
    write_tensors(path, tensors, {"kind": _KIND, "scores": dump_json(rest)})
    return made


def _read(path: Path) -> SelfScores:
    tensors, words = read_tensors(path, advice=_ADVICE)
    known = {entry.name for entry in fields(SelfScores)}
    try:
        found = {**json.loads(words["scores"]), **tensors}
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} cannot be used: its header is damaged: {error}. {_ADVICE}") from error
    if words.get("kind") != _KIND or set(found) != known:
        raise StoreError(f"{path} cannot be used: it holds no self-influence of this version. {_ADVICE}")
    return SelfScores(**found)


def _place(attributor: Attributor, of: Any) -> Path:
    assert attributor.run_dir is not None  # callers keep nothing without one
    name = fingerprint([identity_with_settings(attributor), of])[:24]
    return attributor.run_dir / SCORES / f"{name}.safetensors"

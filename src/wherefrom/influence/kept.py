"""What a run has computed before of an attributor: looked up in its directory, and kept there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.influence.attributor import Attributor, Measured
from wherefrom.influence.fit import Fit
from wherefrom.influence.identity import fit_identity
from wherefrom.influence.measurements import resolve_measurement
from wherefrom.influence.scores import Scores, check_indices
from wherefrom.influence.self_scores import SelfScores
from wherefrom.store import fingerprint, read_object, write_object
from wherefrom.store.run_directory import SCORES
from wherefrom.task import Objective
from wherefrom.version import VERSION

T = TypeVar("T")

_PER_EXAMPLE = ("index", "values", "error", "bound", "converged")
# What may differ from run to run and changes scores by rounding at most.
_PASSING = ("memory", "batch_size", "solver_reason", "solver_notes", "damping_reason", "curvature_reason")


# Of every attributor: its identity says what they are, or they change nothing.
_COMMON = ("objective", "identity", "run_dir", "progress")


def identity_with_settings(attributor: Attributor) -> str:
    """A fingerprint of everything that decides scores: model, data and the settings of the method. A method
    that is no influence function need not name its settings: its class and its attributes (checkpoints,
    rates) count too."""
    settings = {key: value for key, value in attributor.settings().items() if key not in _PASSING}
    parts: list[Any] = [attributor.identity, settings]
    if not isinstance(attributor, Fit):
        own = {name: value for name, value in vars(attributor).items() if name not in _COMMON}
        parts += [type(attributor), _described(own)]
    return fingerprint(parts)


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

    options = {"refine": refine} if refine else {}
    return kept(
        attributor,
        "scores",
        lambda: attributor.scores(queries, measurement, **options),
        of=[refine],
        queries=queries,
        measurement=measurement,
    )


def kept(
    attributor: Attributor,
    what: str,
    compute: Callable[[], T],
    *,
    of: Sequence[Any] = (),
    queries: Any = None,
    measurement: Measured | None = None,
) -> T:
    """`compute()`, or what an earlier study of the same run directory kept of it. It is found again for the
    same model, data, settings of the method and version of this package alone, and for the same of all that
    is named here.

    Args:
        attributor: with a `run_dir`, or nothing is kept.
        what: is computed.
        compute: what is kept if `write_object` takes it.
        of: every option that `compute` depends on.
        queries, measurement: the same, where it takes any.

    Raises:
        InputError: queries that are none.
        StoreError: what was kept is damaged, or cannot be written.
    """
    if attributor.run_dir is None:
        return compute()
    asked: list[Any] = [what, *of]
    objective = attributor.objective
    if queries is not None:
        asked.append(objective.read(queries, role="queries").fingerprint())
    if measurement is not None:
        measured = resolve_measurement(measurement, objective.loss)
        asked += [measured.name, measured.function]
    path = _place(attributor, asked)
    if path.exists():
        found: T = read_object(path)
        return found
    made = compute()
    with suppress(UnsupportedError):  # labels of a user's own kind cannot be kept, and are computed again
        write_object(path, made)
    return made


def self_scores_of(
    attributor: Attributor, indices: Sequence[int] | Tensor | np.ndarray | None = None
) -> SelfScores:
    """`attributor.self_scores`, computed only for the examples of which an earlier study of the same run
    directory kept none; see `scores_of`.

    Raises:
        UnsupportedError: the method has none.
        InputError: indices that are none of the training set, or the method leaves some of them out.
        StoreError: what was kept is damaged, or cannot be written.
    """
    if attributor.run_dir is None:
        return attributor.self_scores(indices)
    n = attributor.objective.n
    wanted = torch.arange(n) if indices is None else check_indices(indices, n)
    path = _place(attributor, "self-influence")
    known: SelfScores | None = read_object(path) if path.exists() else None
    missing = wanted if known is None else wanted[~torch.isin(wanted, known.index)]
    if known is None or len(missing):
        made = attributor.self_scores(missing)
        if not bool(torch.isin(missing, made.index).all()):
            raise InputError(
                f"self_scores of {attributor.method} answered for {len(made)} of the {len(missing)} examples "
                "it was asked for; expected one score for each"
            )
        known = made if known is None else _joined(known, made)
        write_object(path, known)
    return _of(known, wanted)


def _joined(first: SelfScores, second: SelfScores) -> SelfScores:
    each: dict[str, Any] = {
        name: torch.cat([getattr(first, name), getattr(second, name)]) for name in _PER_EXAMPLE
    }
    reasons = sorted({reason for reason in (first.reason, second.reason) if reason})
    return replace(second, **each, reason=" ".join(reasons))


def _of(kept: SelfScores, wanted: Tensor) -> SelfScores:
    """Those of some of the examples, in this order."""
    order = kept.index.argsort()
    at = order[torch.searchsorted(kept.index[order], wanted)]
    each: dict[str, Any] = {name: getattr(kept, name)[at] for name in _PER_EXAMPLE}
    return replace(kept, **each, reason="" if bool(each["converged"].all()) else kept.reason)


def _place(attributor: Attributor, of: Any) -> Path:
    assert attributor.run_dir is not None  # callers keep nothing without one
    name = fingerprint([VERSION, identity_with_settings(attributor), of])[:24]
    return attributor.run_dir / SCORES / f"{name}.safetensors"


def _described(value: Any) -> Any:
    """As `fingerprint` takes it: what is fitted counts by its identity, not by its working state."""
    if isinstance(value, Attributor):
        return identity_with_settings(value)
    if isinstance(value, Objective):
        return fit_identity(value)
    if isinstance(value, Mapping):
        return {key: _described(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(item) for item in value]
    return value

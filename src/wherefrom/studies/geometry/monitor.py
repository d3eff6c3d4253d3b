"""A record of loss, gradients, curvature and bounds along a training, at a cost that the user sets."""

from __future__ import annotations

import copy
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import Subset, TensorDataset

from wherefrom.arguments import whole
from wherefrom.errors import InputError, NonFiniteError, UnsupportedError
from wherefrom.studies.geometry.monitor_file import MonitorFile
from wherefrom.studies.geometry.monitor_measures import MEASURES, Settings
from wherefrom.task import Objective
from wherefrom.task.batch import Forward, Target

_CURVATURES = ("hessian", "ggn")
_NO_TRAINER = object()


class Monitor:
    """Writes a line of measurements to a file every so many steps of any training loop.

        monitor = wherefrom.studies.geometry.Monitor(model, (x, y), loss="cross_entropy", path="run.jsonl")
        for step in range(steps):
            ...
            optimiser.step()
            monitor.step(step)

    All is measured on a copy of the model in evaluation mode: the model, its mode, its gradients and the
    states of the random generators stay as they are. A quantity that is not defined for this network, or not
    finite any more, is left out of the line, with the reason under `skipped`.

    Args:
        model: the one that is trained.
        train: examples as everywhere in Wherefrom; `examples` of them are measured.
        loss: per-example loss, see `resolve_loss`.
        path: a file of JSON lines; one that the same run began (same architecture, data and settings) is
            continued. One process at a time.
        every: steps between two records; step 0 has one.
        record: which of `"loss"`, `"gradient"`, `"complexity"`, `"sharpness"`, `"bounds"`, `"weights"`.
        examples: how many, drawn once from `train` without replacement, as many of `held_out`; `None` all.
        held_out: other examples, whose loss is recorded too.
        share: the most that recording may take of the time of the training itself (0.1: a tenth). Records
            over it are passed over, the first excepted. `None` sets no limit.
        curvature: `"hessian"` or `"ggn"` (the generalised Gauss-Newton matrix), whose largest eigenvalue is
            the sharpness.
        scalar: `f` of the bounds, see `resolve_scalar`.
        probes: for the geometric complexity, see `geometric_complexity`; `None` is exact.
        seed: of the draws.
        forward, target, collate: see `Objective`.

    Attributes:
        path: of the file.
        seconds: spent on records so far.

    Raises:
        InputError: an option out of range, or examples that the model cannot be measured on.
        StoreError: the file belongs to another run or cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        *,
        loss: Any,
        path: str | Path,
        every: int = 50,
        record: Sequence[str] = tuple(MEASURES),
        examples: int | None = 128,
        held_out: Any = None,
        share: float | None = None,
        curvature: str = "hessian",
        scalar: Any = "margin",
        probes: int | None = None,
        seed: int = 0,
        forward: Forward | None = None,
        target: Target | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ):
        _check_options(every, record, examples, share, curvature)
        self.model = model
        self.every, self.record, self.share = every, tuple(record), share
        self._settings = Settings(curvature, scalar, probes, seed)
        self._arguments = {"loss": loss, "forward": forward, "target": target, "collate": collate}
        with _random_states_kept():
            self._train = _some(train, examples, seed)
            self._held_out = None if held_out is None else _some(held_out, examples, seed)
            objective = Objective(_replica(model), self._train, **self._arguments)
            header = {
                "model": _architecture(model),
                "train": objective.examples.fingerprint(),
                "held_out": None
                if self._held_out is None
                else objective.read(self._held_out, role="held_out").fingerprint(),
                "loss": objective.loss.settings(),
                "examples": objective.n,
                "record": self.record,
                "curvature": curvature,
                "scalar": scalar if isinstance(scalar, (str, int)) else getattr(scalar, "__name__", "custom"),
                "probes": probes,
                "seed": seed,
            }
        self._file = MonitorFile(path, header)
        self.path = self._file.path
        self.seconds = 0.0
        self._last_step: int | None = None
        self._last_cost = 0.0
        self._passed_over = 0
        self._clock = time.perf_counter
        self._started: float | None = None

    def step(self, step: int) -> dict[str, Any] | None:
        """To be called after every step of the training.

        Returns:
            The record that was written, or `None` where none was due or the time it may take was used up.

        Raises:
            InputError: a negative step, or not a later one than at the last call.
            StoreError: the file cannot be written.
        """
        if step < 0 or (self._last_step is not None and step <= self._last_step):
            raise InputError(
                f"step={step} after {self._last_step}: expected whole numbers that rise from call to call"
            )
        self._last_step = step
        now = self._clock()
        if self._started is None:
            self._started = now
        if step % self.every:
            return None
        if self._over_budget(now - self._started):
            self._passed_over += 1
            return None
        record = {"step": step, **self._measure()}
        self._last_cost = self._clock() - now
        self.seconds += self._last_cost
        record |= {"seconds": self._last_cost, "passed_over": self._passed_over}
        self._file.append(record)
        self._passed_over = 0
        return record

    def _over_budget(self, elapsed: float) -> bool:
        if self.share is None or self.seconds == 0.0:
            return False
        return self.seconds + self._last_cost > self.share * (elapsed - self.seconds)

    def _measure(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        skipped: dict[str, str] = {}
        device = next(self.model.parameters()).device.type
        with _random_states_kept(), torch.enable_grad(), torch.autocast(device, enabled=False):
            try:
                objective = Objective(_replica(self.model), self._train, **self._arguments)
            except NonFiniteError as error:
                return {"skipped": dict.fromkeys(self.record, str(error))}
            held_out = None if self._held_out is None else objective.read(self._held_out, role="held_out")
            for name in self.record:
                try:
                    measured = MEASURES[name](objective, self._settings, held_out)
                except (UnsupportedError, NonFiniteError) as error:
                    skipped[name] = str(error)
                    continue
                bad = [key for key, value in measured.items() if not math.isfinite(value)]
                if bad:
                    shown = ", ".join(f"{key} is {measured[key]}" for key in bad)
                    skipped[name] = (
                        f"{shown}; expected finite numbers. It overflowed, or is not defined here."
                    )
                else:
                    found[name] = measured
        return {**found, "skipped": skipped}


def _check_options(
    every: int, record: Sequence[str], examples: int | None, share: float | None, curvature: str
) -> None:
    whole("every", every, 1)
    if examples is not None:
        whole("examples", examples, 1, expected="a whole number of at least 1, or None for all")
    unknown = [record] if isinstance(record, str) else [name for name in record if name not in MEASURES]
    if unknown or not record:
        raise InputError(
            f"record={record!r}: expected some of {', '.join(MEASURES)}; pass record=('loss',) for one"
        )
    if share is not None and not 0 < share < float("inf"):
        raise InputError(
            f"share={share}: expected more than 0 (0.1 is a tenth of the training's time), or None"
        )
    if curvature not in _CURVATURES:
        raise InputError(f"curvature={curvature!r}: expected one of {', '.join(_CURVATURES)}")


def _replica(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without gradients."""
    # A LightningModule refers to its trainer, with its data and callbacks: no part of the model.
    attached = [module for module in model.modules() if getattr(module, "_trainer", None) is not None]
    memo: dict[int, Any] = {id(module._trainer): _NO_TRAINER for module in attached}
    try:
        replica = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the model cannot be copied ({error}), and the monitor measures on a copy. Expected one that "
            "copy.deepcopy takes: tensors kept in attributes must be leaves or buffers."
        ) from error
    for module in replica.modules():
        if getattr(module, "_trainer", None) is _NO_TRAINER:
            module._trainer = None  # type: ignore[assignment]
    replica.zero_grad(set_to_none=True)
    return replica.eval()


def _some(data: Any, count: int | None, seed: int) -> Any:
    """`count` of the examples, drawn once."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    columns = isinstance(data, (Tensor, np.ndarray, tuple, dict))
    leaves = (list(data.values()) if isinstance(data, dict) else list(data)) if columns else []
    if columns and not all(isinstance(leaf, (Tensor, np.ndarray)) and len(leaf) for leaf in leaves):
        return data  # for Objective to refuse in its own words
    n = len(leaves[0]) if columns else len(data)
    if count is None or count >= n:
        return data
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    if columns:
        return tree_map(
            lambda leaf: leaf[chosen.to(leaf.device)] if isinstance(leaf, Tensor) else leaf[chosen.numpy()],
            data,
        )
    return Subset(data, chosen.tolist())


def _architecture(model: nn.Module) -> str:
    """SHA-256 of modules' classes and of parameters' names and shapes: what training leaves as it is."""
    classes = [(name, type(module).__name__) for name, module in model.named_modules()]
    shapes = [(name, tuple(value.shape)) for name, value in model.named_parameters()]
    return hashlib.sha256(repr((classes, shapes)).encode()).hexdigest()


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """The generators of Python, NumPy and torch (all devices) are as before when the block ends."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

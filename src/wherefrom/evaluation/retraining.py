"""Run a recipe on changed training data, measure the queries under its model, and keep the answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from wherefrom.errors import ConvergenceError, InputError, NonFiniteError
from wherefrom.influence.measurements import Measurement
from wherefrom.store import RunDirectory, fingerprint
from wherefrom.task import Examples, Objective, check_model

Recipe = Callable[..., nn.Module]  # (training data, seed) -> trained model


class Retraining:
    """Measurements of the queries under retrained models; finished ones are kept, in a run directory too if
    there is one.

    Args:
        objective: of the given model, whose architecture the recipe must return.
        recipe: `recipe(train, seed) -> model`; it may raise `ConvergenceError`. One that also takes `weights`
            can train on examples that count more or less than once.
        examples: the queries.
        measured: what is measured on them.
        run_dir: keeps finished retrainings. It is refused for another model, data, loss, measurement or
            recipe.

    Raises:
        InputError: a recipe that is no function.
        StoreError: `run_dir` belongs to another run.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        examples: Examples,
        measured: Measurement,
        run_dir: Path | None = None,
    ):
        if not callable(recipe):
            raise InputError(
                f"recipe={recipe!r}: expected a function recipe(train, seed) that returns the trained model"
            )
        self._objective, self._recipe, self._examples, self._measured = objective, recipe, examples, measured
        self._known: dict[str, np.ndarray | str] = {}
        self._directory: RunDirectory | None = None
        if run_dir is not None:
            identity = {
                **objective.identity(),
                "queries": examples.fingerprint(),
                "recipe": fingerprint(recipe),
                "measurement": {"name": measured.name, "function": fingerprint(measured.function)},
            }
            self._directory = RunDirectory(run_dir, identity)

    @property
    def takes_weights(self) -> bool:
        """Whether the recipe has an argument `weights`."""
        try:
            return "weights" in inspect.signature(self._recipe).parameters
        except (TypeError, ValueError):  # a built-in without a signature
            return False

    def given(self) -> np.ndarray:
        """The measurement under the model as it was given, `(q,)`."""
        return _measure(self._objective, self._objective.model, self._examples, self._measured)

    def baseline(self, train: Any, seed: int) -> np.ndarray:
        """The measurement after training on all the data, `(q,)`.

        Raises:
            ConvergenceError: the recipe does not converge there: nothing can be compared.
        """
        found = self.measured("all", lambda: train, seed)
        if isinstance(found, str):
            raise ConvergenceError(
                f"the recipe did not converge on the full training set (seed {seed}): {found}"
            )
        return found

    def measured(
        self, name: str, train: Callable[[], Any], seed: int, weights: Tensor | None = None
    ) -> np.ndarray | str:
        """The measurement after training on `train()`, `(q,)`, or why the training did not converge.

        Args:
            name: of the data, under which the answer is kept.
            train: makes the training data, where the answer is not known yet.
            seed: of the recipe.
            weights: how many times each example of the data counts.

        Raises:
            InputError: the recipe returns something other than a model of the same architecture.
            NonFiniteError: its model gives NaN or infinity.
            StoreError: the kept answer was damaged or edited, or belongs to another place.
        """
        key = f"retrained/seed{seed}-{name}"
        if key not in self._known:
            self._known[key] = self._read(key, train, seed, weights)
        return self._known[key]

    def _read(
        self, key: str, train: Callable[[], Any], seed: int, weights: Tensor | None
    ) -> np.ndarray | str:
        """From the run directory, where it is there, or else by training."""
        known = None if self._directory is None else self._directory.read(key)
        if known is not None:
            return self._known_result(key, known)
        result = self._run(train(), seed, weights)
        if self._directory is not None:
            found = {"failed": result} if isinstance(result, str) else {"measured": result.tolist()}
            self._directory.write(key, found)
        return result

    def _known_result(self, key: str, known: Any) -> np.ndarray | str:
        """What a record says.

        Raises:
            StoreError: no measurement of these queries.
        """
        assert self._directory is not None  # it is where the record comes from
        if isinstance(known, dict) and isinstance(known.get("failed"), str):
            return known["failed"]
        found = known.get("measured") if isinstance(known, dict) else None
        try:
            values = np.array(found, dtype=float)
        except (TypeError, ValueError) as error:
            raise self._directory.unusable(key, "it holds no measurements") from error
        if values.shape[:1] != (len(self._examples),) or not np.isfinite(values).all():
            raise self._directory.unusable(
                key, f"it does not hold a finite measurement of each of {len(self._examples)} queries"
            )
        return values

    def _run(self, train: Any, seed: int, weights: Tensor | None) -> np.ndarray | str:
        try:
            options = {} if weights is None else {"weights": weights}
            model = self._recipe(train, seed, **options)
        except ConvergenceError as error:
            return str(error)
        check_architecture(self._objective.model, model)
        return _measure(self._objective, model, self._examples, self._measured)


def check_architecture(given: nn.Module, made: Any) -> None:
    """Refuse what a recipe returned if it is no model like the given one, or if its forward pass is random.

    Raises:
        InputError: naming the parameter or module that differs.
    """
    if not isinstance(made, nn.Module):
        raise InputError(f"recipe returned a {type(made).__name__}; expected the trained torch.nn.Module")
    expected = {name: tuple(value.shape) for name, value in given.named_parameters()}
    found = {name: tuple(value.shape) for name, value in made.named_parameters()}
    if expected != found:
        differing = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise InputError(
            f"recipe returned another architecture than the model's: parameter {differing[0]!r} is "
            f"{found.get(differing[0], 'absent')}, expected "
            f"{expected.get(differing[0], 'absent')} ({len(differing)} parameters differ). Build the same "
            "model in the recipe."
        )
    check_model(made)


def _measure(objective: Objective, model: nn.Module, examples: Examples, measured: Measurement) -> np.ndarray:
    """`m` of every query under another model's parameters and buffers, in the wider of its dtype and the
    computation's.

    A recipe that trains in float64 is measured in float64: the effect of one example may be smaller than
    float32 resolves.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    dtype = objective.dtype
    for _, tensor in named:
        if tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.detach().to(objective.device, dtype if leaf.is_floating_point() else leaf.dtype)

    values = {name: cast(tensor) for name, tensor in named}
    parts = []
    with torch.no_grad():
        for _, batch in examples.batches(objective.pass_size):
            wide = tree_map(cast, batch)
            parts.append(
                measured.function(objective.outputs(values, wide, everything=True), objective.targets(wide))
            )
    result = torch.cat(parts).double().cpu().numpy()
    if not np.isfinite(result).all():
        raise NonFiniteError("the recipe's model gives NaN or infinity on the queries: its training diverged")
    return result

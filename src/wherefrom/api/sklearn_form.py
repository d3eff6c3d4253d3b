"""Data as scikit-learn takes them, `X, y` with the user's own labels, as tensors and class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from wherefrom.errors import InputError
from wherefrom.task import DataForm

# Labels listed in an error.
_LISTED = 12


class SklearnForm(DataForm):
    """The data of one fitted estimator: `(X, y)`, or a list of `(x, y)`, with labels as its `fit` got them.

    Labels are the user's everywhere: class numbers exist only between here and the loss. A label that is not
    among `classes_` is refused, also where it would be a class number.

    Args:
        fitted: the estimator.

    Attributes:
        classes: `classes_` as plain values; `None` for a regression.
    """

    def __init__(self, fitted: Any):
        self._features = int(fitted.n_features_in_)
        self._targets = np.asarray(fitted.coef_).shape[:-1]  # of a regression: () or (t,)
        known = getattr(fitted, "classes_", None)
        self.classes: tuple[Any, ...] | None = None if known is None else tuple(known.tolist())
        self._numbers = {} if known is None else {label: k for k, label in enumerate(self.classes or ())}
        # Text is kept as objects: NumPy's own would cut a longer label to the width of the column.
        self._kept: Any = None if known is None else object if known.dtype.kind in "US" else known.dtype

    def columns(self, data: Any, role: str) -> tuple[np.ndarray, np.ndarray]:
        """`(X, y)` as arrays, `(n, d)` and `(n,)`, labels as `classes` writes them.

        Raises:
            InputError: data of another form or shape, a sparse `X`, or a label that is none of `classes`.
        """
        X, y = self._split(data, role)
        inputs = _as_inputs(X, role)
        if inputs.ndim != 2 or inputs.shape[1] != self._features:
            raise InputError(
                f"{role}: X has shape {inputs.shape}; expected (n, {self._features}), the features that were "
                "fitted"
            )
        targets = _as_array(y)
        if targets.ndim == 0 or len(targets) != len(inputs):
            found = "no sequence" if targets.ndim == 0 else str(len(targets))
            raise InputError(
                f"{role}: X has {len(inputs)} examples and y {found}; expected one target per example"
            )
        if self.classes is None:
            return inputs, self._as_values(targets, role)
        return inputs, self._as_labels(targets, role)

    def read(self, data: Any, role: str) -> tuple[Tensor, Tensor]:
        """Inputs and targets as tensors: class numbers `(n,)`, for two classes `(n, 1)` zeros and ones,
        values `(n, t)`.

        Raises:
            InputError: as `columns`.
        """
        inputs, targets = self.columns(data, role)
        # Copies: later changes of the user's arrays are not to reach what was fitted.
        x = torch.tensor(inputs)
        if self.classes is None:
            return x, torch.tensor(targets).reshape(len(x), -1)
        numbers = torch.tensor([self._numbers[label] for label in targets.tolist()], dtype=torch.long)
        return x, numbers.double()[:, None] if len(self.classes) == 2 else numbers

    def labels(self, labels: Any, name: str) -> Any:
        """One label, or a list of them, each as `classes` writes it; targets of a regression as they are.

        Raises:
            InputError: a label that is none of `classes`.
        """
        if self.classes is None:
            return labels
        given = (
            _as_array(labels) if isinstance(labels, (Tensor, np.ndarray)) or _is_column(labels) else labels
        )
        if isinstance(given, np.ndarray):
            given = given.reshape(-1).tolist() if given.ndim else given.item()
        if isinstance(given, (list, tuple, range)):
            return [self._canonical(label, f"{name}[{k}]") for k, label in enumerate(given)]
        return self._canonical(given, name)

    def _canonical(self, label: Any, where: str) -> Any:
        assert self.classes is not None
        return self.classes[self._number(label, where)]

    def _number(self, label: Any, where: str) -> int:
        assert self.classes is not None
        try:
            return self._numbers[label]
        except (KeyError, TypeError):  # TypeError: a list is no key
            raise InputError(
                f"{where} is {label!r} (a {type(label).__name__}), which is no label of the estimator; "
                f"expected one of its classes_, {_listed(self.classes)}"
            ) from None

    def _as_labels(self, targets: np.ndarray, role: str) -> np.ndarray:
        if targets.ndim != 1 and targets.shape != (len(targets), 1):
            raise InputError(f"{role}: y has shape {targets.shape}; expected labels of shape (n,)")
        made = [
            self._canonical(label, f"{role}: the label of example {i}")
            for i, label in enumerate(targets.reshape(-1).tolist())
        ]
        kept = np.empty(len(made), dtype=self._kept)
        kept[:] = made
        return kept

    def _as_values(self, targets: np.ndarray, role: str) -> np.ndarray:
        try:
            values = targets.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{role}: y holds no numbers ({error}); expected targets of a regression"
            ) from error
        if values.size != len(values) * int(np.prod(self._targets)):
            raise InputError(
                f"{role}: y has shape {values.shape}; expected {('n', *self._targets)}, as was fitted"
            )
        return values.reshape(len(values), *self._targets)

    @staticmethod
    def _split(data: Any, role: str) -> tuple[Any, Any]:
        expected = "expected (X, y), with labels as fit was given them, or a list of pairs (x, y)"
        if isinstance(data, TensorDataset):
            data = data.tensors
        if isinstance(data, tuple):
            if len(data) == 2:
                return data
            raise InputError(f"{role} is a tuple of {len(data)}; {expected}")
        if isinstance(data, (list, Dataset)) and hasattr(data, "__len__"):
            items = [data[i] for i in range(len(data))]
            if not items:
                raise InputError(f"{role} is empty: expected at least one example")
            odd = next((i for i, one in enumerate(items) if not _is_pair(one)), None)
            if odd is None:
                return [_as_array(x) for x, _ in items], [_plain(y) for _, y in items]
            raise InputError(f"{role}: example {odd} is a {type(items[odd]).__name__}; {expected}")
        raise InputError(f"{role} is a {type(data).__name__}; {expected}")


def _is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(item) == 2


def _is_column(value: Any) -> bool:
    """Whether it is a pandas column or the like."""
    return hasattr(value, "to_numpy")


def _plain(value: Any) -> Any:
    """A label or target that came as a tensor or array of one entry."""
    array = _as_array(value) if isinstance(value, (Tensor, np.ndarray, np.generic)) else None
    return value if array is None else array.item() if array.size == 1 else array


def _as_array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, np.ndarray):
        return values
    if _is_column(values):
        return np.asarray(values.to_numpy())
    if isinstance(values, (list, tuple)) and any(isinstance(value, str) for value in values):
        made = np.empty(len(values), dtype=object)  # else ["a", 1] would become two texts
        made[:] = values
        return made
    return np.asarray(values)


def _as_inputs(X: Any, role: str) -> np.ndarray:
    if hasattr(X, "toarray"):
        raise InputError(
            f"{role}: X is a sparse matrix; expected a dense array. Pass X.toarray() if it fits in memory."
        )
    try:
        return np.asarray(_as_array(X), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{role}: X holds no numbers in rows of one length ({error}). For a pipeline pass its last step, "
            "and X as the steps before transform it."
        ) from error


def _listed(labels: Sequence[Any]) -> str:
    shown = ", ".join(map(repr, labels[:_LISTED]))
    return shown if len(labels) <= _LISTED else f"{shown}, … ({len(labels)} classes)"

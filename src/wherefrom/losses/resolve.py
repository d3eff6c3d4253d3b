"""From what a user calls a loss (a name, a torch module, a function) to a `Loss`, exactly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.losses.base import Loss
from wherefrom.losses.binary_cross_entropy import BinaryCrossEntropy
from wherefrom.losses.cosine import Cosine
from wherefrom.losses.cross_entropy import CrossEntropy
from wherefrom.losses.custom import CustomLoss
from wherefrom.losses.feature_distance import FeatureDistance
from wherefrom.losses.logistic import Logistic
from wherefrom.losses.squared_error import SquaredError
from wherefrom.names import resolve_name

NAMES: dict[str, Callable[[], Loss]] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "bce": BinaryCrossEntropy,
    "squared_error": SquaredError,
    "logistic": Logistic,
    "cosine": Cosine,
    "feature_distance": FeatureDistance,
}
UNCLEAR_NAMES = {
    "mse": "it can mean ½‖f − y‖², ‖f − y‖² or its mean over the outputs. Use 'squared_error' for ½‖f − y‖², "
    "or wherefrom.SquaredError(scale=1.0, reduction_over_outputs='mean') for torch.nn.MSELoss",
    "smooth_hinge": "it needs a temperature. Use wherefrom.SmoothHinge(t=0.001)",
    "hinge": "its second derivative is zero, so its influence misses. Use wherefrom.SmoothHinge(t=0.001) for "
    "the influence at parameters trained with the hinge, or wherefrom.SmoothHinge(t=0.0) for the hinge",
    "custom": "a function is passed as it is: loss=my_function, which returns one loss per example",
}
UNCLEAR_NAMES |= dict.fromkeys(
    ("mse_loss", "l2", "l2_loss", "mean_squared_error", "least_squares"), UNCLEAR_NAMES["mse"]
)
UNCLEAR_NAMES |= dict.fromkeys(
    ("l1", "l1_loss", "mae", "mean_absolute_error", "pinball", "quantile"),
    "it has no curvature, so influence is not defined by it. Train and trace a smoothed one, given as a "
    "function: torch.nn.functional.huber_loss(…, reduction='none') summed over an example's outputs",
)
UNCLEAR_NAMES |= dict.fromkeys(
    ("nll", "nll_loss", "negative_log_likelihood"),
    "it takes log-probabilities. Where the model ends in log_softmax, pass loss='cross_entropy': of "
    "log-probabilities it is the same number",
)
# Clear enough: each is one loss, with one scale.
_ALIASES = {
    "ce": "cross_entropy",
    "crossentropyloss": "cross_entropy",
    "softmax": "cross_entropy",
    "categorical_cross_entropy": "cross_entropy",
    "bce_with_logits": "bce",
    "bcewithlogitsloss": "bce",
    "binary_cross_entropy_with_logits": "binary_cross_entropy",
    "half_squared_error": "squared_error",
}


def resolve_loss(loss: Any) -> Loss:
    """The `Loss` that `loss` names.

    Args:
        loss: a `Loss`; one of the names `"cross_entropy"`, `"binary_cross_entropy"` (or `"bce"`),
            `"squared_error"` (`½‖f − y‖²`), `"logistic"`, `"cosine"` (`1 − cos(f, y)`), `"feature_distance"`
            (`‖f − y‖`); an instance of `torch.nn.CrossEntropyLoss`, `BCEWithLogitsLoss` or `MSELoss`; or a
            function `(outputs, targets) -> (b,)`, which becomes a `CustomLoss`.

    The objective is the mean over examples of a loss per example. A torch loss with `reduction="mean"` is
    taken where its batch mean is such a mean; what makes it another number (class weights, ignored targets)
    is refused, the latter when the targets are seen. `reduction="none"` is taken for one position per
    example.

    Raises:
        InputError: no loss has this name, the name has several meanings, or the object is not a loss.
        UnsupportedError: a torch loss or one of its options that has no exact counterpart.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        return _from_name(loss)
    if isinstance(loss, type):
        raise InputError(
            f"loss is the class {loss.__name__}; expected an instance: pass {loss.__name__}(...)."
        )
    if isinstance(loss, nn.Module) and type(loss).__module__ == nn.modules.loss.__name__:
        return _from_torch(loss)
    if callable(loss):
        return CustomLoss(loss)
    raise InputError(
        f"loss is of type {type(loss).__name__}; expected a name ({', '.join(map(repr, NAMES))}), a "
        "wherefrom.Loss, a torch.nn loss, or a function (outputs, targets) that returns one loss per example."
    )


def _from_name(name: str) -> Loss:
    return NAMES[resolve_name("loss", name, NAMES, aliases=_ALIASES, unclear=UNCLEAR_NAMES)]()


def _from_torch(loss: Any) -> Loss:
    name = type(loss).__name__
    if type(loss) is nn.CrossEntropyLoss:
        _refuse_sum(loss, "wherefrom.CrossEntropy(token_reduction='sum')")
        return _from_cross_entropy(loss)
    if type(loss) is nn.BCEWithLogitsLoss:
        _refuse_sum(loss, "wherefrom.BinaryCrossEntropy(reduction_over_outputs='sum')")
        if loss.weight is not None:
            raise UnsupportedError(
                "torch.nn.BCEWithLogitsLoss(weight=...) rescales by position in the batch and has no "
                "counterpart. Pass a function of (outputs, targets) that returns one weighted loss per "
                "example."
            )
        return BinaryCrossEntropy(loss.pos_weight, reduction_over_outputs=_reduction(loss))
    if type(loss) is nn.MSELoss:
        _refuse_sum(loss, "wherefrom.SquaredError(scale=1.0, reduction_over_outputs='sum')")
        return SquaredError(scale=1.0, reduction_over_outputs=_reduction(loss))
    raise UnsupportedError(
        f"torch.nn.{name} has no closed form here. Pass a function (outputs, targets) that returns one loss "
        "per example, built on the matching torch.nn.functional with reduction='none' and summed or averaged "
        "over what belongs to an example."
    )


def _from_cross_entropy(loss: nn.CrossEntropyLoss) -> CrossEntropy:
    averaged = loss.reduction == "mean"
    if averaged and loss.weight is not None:
        raise UnsupportedError(
            "torch.nn.CrossEntropyLoss(weight=..., reduction='mean') divides by the batch's sum of class "
            "weights, so it is no mean of a loss per example. Pass "
            "wherefrom.CrossEntropy(class_weights=...), "
            "the same up to a constant factor over the whole training set; give weight_decay and damping in "
            "units of that objective."
        )
    return CrossEntropy(
        class_weights=loss.weight,
        label_smoothing=loss.label_smoothing,
        ignore_index=loss.ignore_index,
        class_dim=1,
        token_reduction=_reduction(loss),
        allow_ignored=not averaged,
    )


def _reduction(loss: Any) -> str | None:
    return "mean" if loss.reduction == "mean" else None


def _refuse_sum(loss: Any, instead: str) -> None:
    if loss.reduction == "sum":
        raise UnsupportedError(
            f"torch.nn.{type(loss).__name__}(reduction='sum') adds up the batch, while the objective is the "
            f"mean over examples plus the regulariser. For a sum within each example pass {instead}; divide "
            "a weight_decay that went with the batch's sum by the number of examples."
        )

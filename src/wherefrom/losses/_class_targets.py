"""Where the classes are in outputs and targets, and whether the targets are valid classes."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.losses._checks import first_position, require_finite, require_labels

PROBABILITY_TOLERANCE = 1e-2  # half-precision probabilities of many classes add up to one no closer than this


def class_dimension(outputs: Tensor, targets: Tensor, class_dim: int | None, loss: str) -> int:
    """Dimension of the outputs that holds the classes; decided by shapes, refused where they leave it open.

    Raises:
        InputError: shapes that do not fit each other, that fit in two ways, or a `class_dim` that does not
            exist.
    """
    shape, last = tuple(outputs.shape), outputs.ndim - 1
    candidates = sorted({1, last})
    if class_dim is not None:
        if not (0 < class_dim <= last or -last <= class_dim < 0):
            raise InputError(
                f"class_dim is {class_dim}, outputs have shape {shape}; expected a dimension after the first."
            )
        candidates = [class_dim % outputs.ndim]
    fitting = _fitting(candidates, outputs, targets)
    if not fitting:
        if class_dim is not None and (others := _fitting(sorted({1, last}), outputs, targets)):
            raise InputError(
                f"loss {loss!r}: outputs of shape {shape} with targets of shape {tuple(targets.shape)} have "
                f"their classes in dimension {others[0]}, while this loss looks for them in dimension "
                f"{candidates[0]} (torch.nn.CrossEntropyLoss takes (b, c, t…)). Pass "
                f"loss=wherefrom.CrossEntropy(class_dim={-1 if others[0] == last else others[0]}), or move "
                "that dimension in forward=."
            )
        raise InputError(_misfit(outputs, targets, loss))
    if len(fitting) > 1:
        raise InputError(
            f"outputs of shape {shape} with targets of shape {tuple(targets.shape)} can be read with the "
            "classes in dimension 1 (torch's layout) or last; pass CrossEntropy(class_dim=1) or "
            "CrossEntropy(class_dim=-1)."
        )
    return fitting[0]


def _fitting(candidates: list[int], outputs: Tensor, targets: Tensor) -> list[int]:
    shape = tuple(outputs.shape)
    if targets.is_floating_point():
        return [d for d in candidates if tuple(targets.shape) == shape]
    return [d for d in candidates if tuple(targets.shape) == shape[:d] + shape[d + 1 :]]


def _misfit(outputs: Tensor, targets: Tensor, loss: str) -> str:
    found = (
        f"outputs have shape {tuple(outputs.shape)}, targets shape {tuple(targets.shape)} ({targets.dtype})"
    )
    if targets.shape == outputs.shape:
        fix = "Integer targets of the outputs' shape look one-hot: pass targets.float(), or their argmax."
    elif targets.is_floating_point() and targets.ndim == outputs.ndim - 1:
        fix = "Class indices must be integers: pass targets.long()."
    elif targets.ndim == outputs.ndim and targets.shape[-1] == 1:
        fix = "Drop the last dimension of the targets: targets.squeeze(-1)."
    else:
        fix = "Check that each position of the outputs has one label, and class_dim if it is set."
    return (
        f"loss {loss!r}: {found}; expected integer classes (b,) for outputs (b, c), tokens (b, t...) for "
        f"outputs (b, t..., c) or (b, c, t...), or class probabilities of the outputs' shape. {fix}"
    )


def require_class_probabilities(
    probabilities: Float[Tensor, "b s c"], ignore_index: int | None, loss: str
) -> None:
    """Finite, non-negative, and one in sum."""
    require_finite(probabilities, "class probabilities")
    if ignore_index is not None and ignore_index >= 0:
        raise InputError(
            f"ignore_index={ignore_index} has no meaning for class probabilities; use ignore_index=None."
        )
    require_labels(
        probabilities >= 0, probabilities, loss, "class probabilities ≥ 0", "Apply softmax to scores."
    )
    sums = probabilities.sum(-1)
    off = (sums - 1.0).abs() > PROBABILITY_TOLERANCE
    if bool(off.any()):
        raise InputError(
            f"loss {loss!r}: the class probabilities of (example, token) {first_position(off)} sum to "
            f"{sums[off][0].item():.6g} ({int(off.sum())} such rows); expected 1. Normalise them."
        )


def require_class_indices(
    labels: Int[Tensor, "..."], classes: int, ignore_index: int | None, allow_ignored: bool, loss: str
) -> None:
    """Each label is a class or, where that is allowed, the ignored index."""
    ignored = labels == ignore_index if ignore_index is not None else labels != labels
    if not allow_ignored and bool(ignored.any()):
        raise InputError(
            f"target {first_position(ignored)} is ignored (label {ignore_index}) under a loss that averages "
            "over the targets left in each batch: its divisor changes from batch to batch, so no loss per "
            "example averages to it. Drop these examples, or say what an example's loss is with "
            f"loss=wherefrom.CrossEntropy(ignore_index={ignore_index}, token_reduction='mean' or 'sum')."
        )
    require_labels(
        ignored | ((labels >= 0) & (labels < classes)),
        labels,
        loss,
        f"0 … {classes - 1} for the {classes} classes of the outputs"
        + ("" if ignore_index is None else f", or ignore_index={ignore_index}"),
        "Map the labels to 0-based class indices, or set ignore_index.",
    )

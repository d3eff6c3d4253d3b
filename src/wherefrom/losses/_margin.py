"""What losses of the margin `s = y f`, with labels −1 and +1 and one output per example, have in common."""

from __future__ import annotations

from torch import Tensor

from wherefrom.losses._checks import require_labels

ONE_OUTPUT_FIX = (
    "A loss of the margin needs a single score per example; for several use loss='cross_entropy'."
)


def require_signs(targets: Tensor, loss: str) -> None:
    """Labels must be −1 or +1."""
    require_labels(
        (targets == 1) | (targets == -1),
        targets,
        loss,
        "labels −1 or +1",
        "For labels 0 and 1 pass 2 * y − 1, or use loss='binary_cross_entropy'.",
    )

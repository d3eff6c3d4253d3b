"""Where the network of Figure 2 right meets Wherefrom: scores with a damping that suffices."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import small_cnn
from experiment import say
from torch import Tensor, nn

import wherefrom
from wherefrom.errors import NotPositiveDefiniteError

ATTEMPTS = 4


def network_scores(
    model: nn.Module,
    problem: small_cnn.Problem,
    asked: tuple[Tensor, Tensor],
    *,
    curvature: str,
    damping: float,
    rtol: float,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Scores (n,) of all training images for one test image by conjugate gradients, and notes on them.

    Away from a minimum the Hessian may have eigenvalues below `−damping`. The damping is then raised to twice
    what Wherefrom says is needed, as a barely positive curvature blows scores up; the notes hold it.

    Raises:
        NotPositiveDefiniteError: more damping does not help.
    """
    started = time.perf_counter()
    for attempt in range(ATTEMPTS):
        try:
            influence = wherefrom.Influence(
                model,
                (problem.x, problem.y),
                loss="cross_entropy",
                weight_decay={
                    name: problem.alpha for name, _ in model.named_parameters() if small_cnn.is_weight(name)
                },
                curvature=curvature,
                damping=damping,
                solver=wherefrom.CG(rtol=rtol),
                hvp_mode="reverse_over_reverse",
                progress=False,
            ).fit()
            table = influence.scores(asked)
            break
        except NotPositiveDefiniteError as error:
            if attempt == ATTEMPTS - 1:
                raise
            damping = 2 * (damping + error.damping)
            say(f"  the {curvature} is not positive definite: damping {damping:.3g}")
    minimum = influence.minimum
    return np.asarray(table.values)[0], {
        "damping": damping,
        "converged": bool(table.converged.all()),
        "seconds": round(time.perf_counter() - started, 1),
        "gradient_norm": minimum.gradient_norm,
        "smallest_curvature": minimum.smallest_curvature,
        "largest_curvature": minimum.largest_curvature,
        "verdict": minimum.verdict,
    }

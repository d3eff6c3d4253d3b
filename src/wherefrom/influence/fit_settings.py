"""Everything that defines the scores of a fit, as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from wherefrom.influence.fit import Fit


def settings_of(fitted: Fit) -> dict[str, Any]:
    """Chosen or given."""
    objective = fitted.objective
    return {
        "loss": objective.loss.settings(),
        **fitted.curvature.settings,
        "curvature_reason": fitted.curvature.reason,
        "damping": fitted.damping.value,
        "damping_reason": fitted.damping.reason,
        "damping_per_block": None if fitted.damping.per_block is None else dict(fitted.damping.per_block),
        **fitted.solver.settings(),
        "solver_reason": fitted.solver_reason,
        "solver_notes": dict(fitted.prepared.notes),
        "n": objective.n,
        "p": objective.p,
        "parameters": list(objective.parameters.names),
        "frozen": list(objective.parameters.frozen),
        "unselected": list(objective.parameters.unselected),
        "dtype": str(objective.dtype).removeprefix("torch."),
        "device": str(objective.device),
        "structure": fitted.engine.structure,
        "per_example_gradients": fitted.engine.per_example,
        "batch_size": fitted.engine.batch_size,
        "memory": objective.memory,
        "seed": fitted.options.seed,
        "torch": torch.__version__,
    }

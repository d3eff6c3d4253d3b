"""Which entries of the parameter vector belong together: by layer, or as the user groups them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.task import ParameterSet
from wherefrom.task.parameters import matching_names


def layer_groups(parameters: ParameterSet) -> dict[str, Tensor]:
    """Indices by the module that holds the parameters; `"(model)"` for those the model holds itself."""
    found: dict[str, list[Tensor]] = {}
    for name, index in _indices(parameters).items():
        found.setdefault(name.rpartition(".")[0] or "(model)", []).append(index)
    return {name: torch.cat(parts) for name, parts in found.items()}


def named_groups(parameters: ParameterSet, groups: Mapping[str, str | Sequence[str]]) -> dict[str, Tensor]:
    """Indices of each group, named by parameter names, globs or submodules; groups may overlap.

    Raises:
        InputError: no group, or a pattern that matches none of the studied parameters.
    """
    if not groups:
        raise InputError("groups is empty: expected {name: pattern or patterns}, or None for one per layer")
    indices = _indices(parameters)
    chosen: dict[str, Tensor] = {}
    for group, given in groups.items():
        patterns = [given] if isinstance(given, str) else list(given)
        names: set[str] = set()
        for pattern in patterns:
            matched = matching_names(indices, pattern)
            if not matched:
                raise InputError(
                    f"groups[{group!r}]: {pattern!r} matches none of the studied parameters; "
                    f"they are {', '.join(list(indices)[:8])}{', …' if len(indices) > 8 else ''}"
                )
            names.update(matched)
        chosen[group] = torch.cat([index for name, index in indices.items() if name in names])
    return chosen


def _indices(parameters: ParameterSet) -> dict[str, Tensor]:
    """Where each parameter lies in the flat vector."""
    found, start = {}, 0
    for name, size in zip(parameters.names, parameters.sizes):
        found[name] = torch.arange(start, start + size, device=parameters.device)
        start += size
    return found

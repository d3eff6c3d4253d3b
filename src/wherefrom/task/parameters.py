"""The parameters that are studied: a named subset of a model's, and the flat vector `θ ∈ R^p` they form."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wherefrom.errors import InputError, NonFiniteError
from wherefrom.task.batched_backward import batched_backward

# Half precision has too few digits for second derivatives and solves.
_DTYPES = (torch.float32, torch.float64)


class ParameterSet:
    """Values of the studied parameters, in a fixed order, and views of flat vectors as named tensors.

    Attributes:
        names: parameter names as `model.named_parameters()` gives them; a tied parameter appears once.
        values: detached copies in the dtype of the computation; nothing here writes to the model.
        frozen: names that were left out because they do not require gradients.
        unselected: names that the selection left out.
        size: `p`.

    Raises:
        InputError: a selection that names nothing of the model, only frozen parameters, another `dtype` than
            float32 or float64, or parameters made inside `torch.inference_mode()`.
        NonFiniteError: a parameter holds NaN or infinity.
    """

    def __init__(
        self,
        model: nn.Module,
        select: str | Sequence[str] | nn.Module | None = None,
        dtype: torch.dtype | None = None,
    ):
        if dtype is not None and dtype not in _DTYPES:
            raise InputError(
                f"dtype={dtype!r}: expected torch.float32, torch.float64 or None (the parameters' own; half "
                "precision models are computed in float32)"
            )
        every = dict(model.named_parameters())
        if not every:
            raise InputError("the model has no parameters: influence is defined through them")
        made = next((name for name, value in every.items() if value.is_inference()), None)
        if made is not None:
            raise InputError(
                f"parameter {made!r} was made inside torch.inference_mode(), so nothing can be "
                "differentiated by it. Build or load the model outside of it; torch.no_grad() is fine."
            )
        chosen = _select(model, every, select)
        names = [name for name in every if name in chosen and every[name].requires_grad]
        if not names:
            raise InputError(
                f"all {len(chosen)} selected parameters are frozen (requires_grad=False), so nothing can be "
                "attributed. Call .requires_grad_(True) on those to be studied; the values are not changed."
            )
        self.names = names
        self.frozen = [name for name in every if name in chosen and not every[name].requires_grad]
        self.unselected = [name for name in every if name not in chosen]
        self.dtype = dtype or torch.promote_types(every[names[0]].dtype, torch.float32)
        self.values = {name: every[name].detach().to(self.dtype, copy=True) for name in names}
        for name, value in self.values.items():
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"parameter {name!r} holds NaN or infinity. Influence needs a model whose training "
                    "ended in finite parameters; lower the learning rate or load an earlier checkpoint."
                )
        self.sizes = [value.numel() for value in self.values.values()]
        self.size = sum(self.sizes)
        self.device = next(iter(self.values.values())).device

    def flatten(self, named: Mapping[str, Tensor] | Sequence[Tensor]) -> Float[Tensor, " p"]:
        """One flat vector from one tensor per parameter, row-major, in the order of `names`."""
        parts = [named[name] for name in self.names] if isinstance(named, Mapping) else list(named)
        return torch.cat([part.reshape(-1) for part in parts])

    def flatten_rows(self, parts: Sequence[Tensor]) -> Float[Tensor, "k p"]:
        """`k` flat vectors as rows, from one `(k, *shape)` tensor per parameter."""
        return torch.cat([part.reshape(part.shape[0], -1) for part in parts], dim=1)

    def unflatten(self, vector: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """The named tensors that a flat vector stands for."""
        parts = vector.split(self.sizes)
        return {name: part.reshape(value.shape) for (name, value), part in zip(self.values.items(), parts)}

    def unflatten_rows(self, rows: Float[Tensor, "k p"]) -> list[Tensor]:
        """One `(k, *shape)` tensor per parameter, from `k` flat vectors as rows."""
        parts = rows.split(self.sizes, dim=1)
        return [part.reshape(rows.shape[0], *value.shape) for value, part in zip(self.values.values(), parts)]

    def batched_gradient(
        self, outputs: Tensor | list[Tensor], leaves: list[Tensor], cotangents: Tensor | list[Tensor]
    ) -> Float[Tensor, "k p"]:
        """`k` pull-backs of `outputs` to `leaves` (one for each parameter) at once, their graph kept.

        torch gives a leaf that the outputs do not depend on no gradient, or one without the `k`: here it
        is zeros.
        """
        parts = batched_backward(outputs, leaves, cotangents)
        k = (cotangents if isinstance(cotangents, Tensor) else cotangents[0]).shape[0]
        return self.flatten_rows(
            [leaf.new_zeros(k, *leaf.shape) if part is None else part for leaf, part in zip(leaves, parts)]
        )

    def flat(self) -> Float[Tensor, " p"]:
        """`θ̂` itself."""
        return self.flatten(self.values)

    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and values."""
        digest = hashlib.sha256()
        for name, value in self.values.items():
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def matching_names(names: Iterable[str], pattern: str) -> list[str]:
    """The names that a parameter's name, a glob or a submodule's name (with or without a last dot) stands
    for."""
    inside = pattern.rstrip(".") + "."
    return [name for name in names if fnmatch.fnmatchcase(name, pattern) or name.startswith(inside)]


def _select(
    model: nn.Module, every: Mapping[str, nn.Parameter], select: str | Sequence[str] | nn.Module | None
) -> set[str]:
    if select is None:
        return set(every)
    if isinstance(select, nn.Module):
        inside = {id(parameter) for parameter in select.parameters()}
        chosen = {name for name, parameter in every.items() if id(parameter) in inside}
        if not chosen:
            raise InputError(
                f"parameters={type(select).__name__}(...): this module is not part of the model or has no "
                "parameters. Pass one of the model's own submodules, e.g. parameters=model.fc."
            )
        return chosen
    patterns = _patterns(select)
    # A tied parameter has several names; it is studied under its first.
    first = {id(parameter): name for name, parameter in every.items()}
    aliases = {
        name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    chosen = set()
    for pattern in patterns:
        found = matching_names(aliases, pattern)
        if not found:
            shown = ", ".join(list(every)[:8]) + (", …" if len(every) > 8 else "")
            raise InputError(
                f"parameters: {pattern!r} matches no parameter. Expected a parameter's name, a glob, or a "
                f"submodule's name; the model has {shown}"
            )
        chosen |= {aliases[name] for name in found}
    return chosen


def _patterns(select: str | Sequence[str]) -> list[str]:
    if isinstance(select, str):
        return [select]
    expected = "expected None (all), a name, a glob, a list of them, or one of the model's submodules"
    if not isinstance(select, (Sequence, Set)):
        raise InputError(f"parameters is of type {type(select).__name__}; {expected}")
    if not select:
        raise InputError(f"parameters is empty: {expected}")
    other = next((item for item in select if not isinstance(item, str)), None)
    if other is not None:
        raise InputError(f"parameters holds an item of type {type(other).__name__}; {expected}")
    return list(select)

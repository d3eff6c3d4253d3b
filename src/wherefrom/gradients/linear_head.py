"""When the studied parameters are one final linear map, the Jacobian is the features: two GEMMs a product, no
autograd."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wherefrom.errors import UnsupportedError
from wherefrom.gradients.linearisation import Linearisation
from wherefrom.task import Objective

# Examples on which the structure is proved.
_PROBES = 4
# Their outputs may take this share of the memory budget.
_SHARE = 0.05


class LinearHeadLinearisation(Linearisation):
    """`f = W a (+ c)` with fixed features `a`: `J v = V a (+ v_c)`, `Jᵀu = Σ u aᵀ`.

    `s` positions share the weights (tokens of a sequence); `s = 1` otherwise.
    """

    def __init__(self, features: Float[Tensor, "b s d"], outputs: Tensor, targets: Any, *, has_bias: bool):
        self.features = features
        self.outputs = outputs
        self.targets = targets
        self.has_bias = has_bias
        self.width = outputs.numel() // (features.shape[0] * features.shape[1])  # C

    def jvp(self, vectors: Float[Tensor, "p k"]) -> Tensor:
        b, s, d = self.features.shape
        k, width = vectors.shape[1], self.width
        weight = vectors[: width * d].T.reshape(k * width, d)
        tangents = (self.features.reshape(b * s, d) @ weight.T).reshape(b, s, k, width)
        if self.has_bias:
            tangents = tangents + vectors[width * d :].T.reshape(k, width)
        # Strides stay (b, s, k, c): the next product reads them without a copy.
        return tangents.permute(2, 0, 1, 3).reshape(k, *self.outputs.shape)

    def vjp(self, cotangents: Tensor) -> Float[Tensor, "p k"]:
        b, s, d = self.features.shape
        k, width = cotangents.shape[0], self.width
        columns = cotangents.reshape(k, b * s, width).permute(1, 0, 2).reshape(b * s, k * width)
        weight = (columns.T @ self.features.reshape(b * s, d)).reshape(k, width * d)
        if self.has_bias:
            weight = torch.cat([weight, columns.sum(0).reshape(k, width)], dim=1)
        return weight.T

    def vjp_each_parts(self, cotangents: Tensor) -> list[Tensor]:
        b, s, _ = self.features.shape
        k, width = cotangents.shape[0], self.width
        u = cotangents.reshape(k, b, s, width)
        parts = [torch.einsum("kbsc,bsd->bkcd", u, self.features).reshape(b, k, -1)]
        if self.has_bias:
            parts.append(u.sum(2).permute(1, 0, 2))
        return parts


class LinearHead:
    """The final linear layer that holds all studied parameters, and how to read its features.

    Attributes:
        module: the layer.
        has_bias: whether its bias is studied too.
        features_each, outputs_each: numbers per example that enter and leave it, on the probe batch.
    """

    def __init__(
        self, objective: Objective, module: nn.Linear, has_bias: bool, features_each: int, outputs_each: int
    ):
        self._objective = objective
        self.module = module
        self.has_bias = has_bias
        self.features_each = features_each
        self.outputs_each = outputs_each

    @property
    def single_position(self) -> bool:
        """Whether it maps one vector per example, not a sequence of them."""
        return self.features_each == self.module.in_features

    def features(self, batch: Any) -> tuple[Float[Tensor, "b s d"], Tensor]:
        """The layer's input `(b, s, d)` and the model's outputs on a batch.

        Raises:
            UnsupportedError: the model's outputs are not the layer's on this batch, unlike on the probe.
        """
        values = self._objective.parameters.values
        with torch.no_grad():
            calls, outputs = _captured(self._objective, self.module, values, batch)
        if not _is_head(self.module, calls, outputs, values):
            raise UnsupportedError(
                "the studied layer makes the model's outputs on some batches and not on others, so its "
                "curvature has no "
                "closed form. Add another layer to parameters= to have derivatives taken by autograd."
            )
        inputs = calls[0][0]
        return inputs.reshape(inputs.shape[0], -1, inputs.shape[-1]), outputs


def find_linear_head(objective: Objective) -> LinearHead | None:
    """The layer, if all studied parameters are those of one `nn.Linear` whose output is the model's output;
    else `None`.

    The structure is proved on a probe batch with other parameter values: the layer runs once, its input does
        not depend on
    the studied parameters, and the model's output is the layer's, up to its shape.
    """
    owners = {name.rpartition(".")[0] for name in objective.parameters.names}
    fields = {name.rpartition(".")[2] for name in objective.parameters.names}
    if len(owners) != 1 or "weight" not in fields:
        return None
    module = objective.model.get_submodule(owners.pop())
    if type(module) is not nn.Linear or fields - {"weight", "bias"}:
        return None
    batch = objective.examples.batch(objective.examples.spread(_probes(objective)))
    values = objective.parameters.values
    generator = torch.Generator().manual_seed(0)
    other = {
        name: value + torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for name, value in values.items()
    }
    with torch.no_grad():
        calls, _ = _captured(objective, module, values, batch)
        moved, outputs = _captured(objective, module, other, batch)
    if (
        not _is_head(module, moved, outputs, other)
        or len(calls) != 1
        or not torch.equal(calls[0][0], moved[0][0])
    ):
        return None
    inputs = moved[0][0]
    count = inputs.shape[0]
    return LinearHead(objective, module, "bias" in fields, inputs.numel() // count, outputs.numel() // count)


def _probes(objective: Objective) -> int:
    """Examples that the structure is proved on: fewer, where their outputs would not fit the budget."""
    with torch.no_grad():
        outputs = objective.outputs(objective.parameters.values, objective.examples.batch([0]))
    room = _SHARE * objective.memory // max(1, outputs.numel() * outputs.element_size())
    return int(max(2, min(_PROBES, room)))


def _is_head(
    module: nn.Linear, calls: list[tuple[Tensor, Tensor]], outputs: Tensor, values: dict[str, Tensor]
) -> bool:
    """Whether the layer ran once and the outputs are `W a + b` of its input (no hook changed it), up to their
    shape."""
    if len(calls) != 1:
        return False
    inputs, made = calls[0]
    if (
        inputs.ndim < 2
        or outputs.ndim == 0
        or inputs.shape[0] != outputs.shape[0]
        or made.numel() != outputs.numel()
    ):
        return False
    own = {name.rpartition(".")[2]: value for name, value in values.items()}
    bias = own.get("bias", module.bias)
    if bias is not None:
        bias = bias.detach().to(inputs.dtype)
    plain = nn.functional.linear(inputs, own["weight"], bias)
    return torch.equal(plain, made) and torch.equal(made.reshape(outputs.shape), outputs)


def _captured(
    objective: Objective, module: nn.Linear, values: dict[str, Tensor], batch: Any
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    calls: list[tuple[Tensor, Tensor]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], made: Tensor) -> None:
        calls.append(((args[0] if args else kwargs["input"]).detach(), made.detach()))

    handle = module.register_forward_hook(record, with_kwargs=True)
    try:
        outputs = objective.outputs(values, batch)
    finally:
        handle.remove()
    return calls, outputs

"""The loss's gradient by the chain rule: in the head, in the features, in what makes them, and in the
input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten

from wherefrom.errors import UnsupportedError
from wherefrom.gradients.autograd import looped_vjp_each, vmap_failure, vmapped_vjp_each
from wherefrom.gradients.last_layer import head_objective
from wherefrom.gradients.linear_head import LinearHead, find_linear_head
from wherefrom.influence.continuous_input import ContinuousInput, find_input
from wherefrom.memory import fitting
from wherefrom.studies.geometry.evaluation import as_examples
from wherefrom.task import Objective, differentiable_attention

# Of the memory budget, for explicit per-example gradients of a batch.
_SHARE = 0.1


@dataclass(frozen=True)
class GradientSplit:
    """Per-example gradients of the loss of `z = W e (+ b)`, `e = f(x; θ_f)`, split at the last layer.

    Everything follows from the residual `r = ∇_z ℓ` (`p − y` for cross-entropy, `f − y` for squared error).

    Attributes:
        residuals: `r`, which is `∇_b ℓ` too, `(n, c)`.
        features: `e`, `(n, d)`.
        feature_gradients: `∇_e ℓ = Wᵀ r`, `(n, d)`.
        parameter_norms: `‖∇_{θ_f} ℓ‖ = ‖(∂e/∂θ_f)ᵀ ∇_e ℓ‖` over the studied parameters before the head,
            `(n,)`; zeros where none of these is studied.
        input_gradients: `∇_x ℓ = (∂e/∂x)ᵀ ∇_e ℓ`, `(n, …)`; `None` where the input is not continuous
            (tokens).
        parameter_gradients: `∇_{θ_f} ℓ` by name, `(n, *shape)` each; `None` unless they were asked for.
        has_bias: whether the head has a bias.
        head: its name in the model.
    """

    residuals: Float[Tensor, "n c"]
    features: Float[Tensor, "n d"]
    feature_gradients: Float[Tensor, "n d"]
    parameter_norms: Float[Tensor, " n"]
    input_gradients: Tensor | None
    parameter_gradients: dict[str, Tensor] | None
    has_bias: bool
    head: str

    def __len__(self) -> int:
        return self.residuals.shape[0]

    @property
    def weight_gradients(self) -> Float[Tensor, "n c d"]:
        """`∇_W ℓ = r eᵀ`, formed here: `n c d` numbers."""
        return self.residuals.unsqueeze(2) * self.features.unsqueeze(1)

    @property
    def weight_norms(self) -> Float[Tensor, " n"]:
        """`‖∇_W ℓ‖ = ‖r‖ ‖e‖`, without forming it."""
        return self.residuals.norm(dim=1) * self.features.norm(dim=1)

    @property
    def bias_norms(self) -> Float[Tensor, " n"]:
        """`‖∇_b ℓ‖ = ‖r‖`; zeros for a head without a bias."""
        return self.residuals.norm(dim=1) * float(self.has_bias)

    @property
    def feature_norms(self) -> Float[Tensor, " n"]:
        """`‖∇_e ℓ‖`."""
        return self.feature_gradients.norm(dim=1)

    @property
    def input_norms(self) -> Float[Tensor, " n"] | None:
        """`‖∇_x ℓ‖`."""
        return None if self.input_gradients is None else self.input_gradients.flatten(1).norm(dim=1)

    @property
    def head_share(self) -> Float[Tensor, " n"]:
        """The share of `‖∇_θ ℓ‖²` that lies in the head, from 0 to 1; NaN where the gradient is zero."""
        head = self.weight_norms.square() + self.bias_norms.square()
        return head / (head + self.parameter_norms.square())

    def __repr__(self) -> str:
        sizes = {
            "W": self.weight_norms,
            "b": self.bias_norms,
            "e": self.feature_norms,
            "θ_f": self.parameter_norms,
            "x": self.input_norms,
        }
        medians = ", ".join(
            f"{name} {float(norms.median()):.3g}" for name, norms in sizes.items() if norms is not None
        )
        share = 100 * float(self.head_share.nanmedian())
        return (
            f"GradientSplit(examples={len(self)}, head={self.head!r}, median gradient norms: {medians}; "
            f"median share of the head {share:.0f}%)"
        )


def gradient_split(
    objective: Objective,
    examples: Any = None,
    *,
    input: int | str | None = None,
    keep_parameters: bool = False,
) -> GradientSplit:
    """Per-example gradients of the loss, split into head, features, feature parameters and input.

    The head's part is closed form for any loss, from the features and `∇_z ℓ`; the rest is one backward pass
    per batch for the input, and per-example gradients for the norms of the parameters'.

    Args:
        objective: a model that ends in one `nn.Linear`, with the loss and the studied parameters.
        examples: in any form the training data may have; the training set for `None`.
        input: which tensor of a batch the input is, where several are floating point: its place in a tuple
            or its key in a dict.
        keep_parameters: keep the gradients in the parameters before the head, `n · p` numbers.

    Raises:
        UnsupportedError: the model does not end in a linear layer, or this maps several positions of an
            example.
        InputError: several floating-point inputs and no `input`.
    """
    restricted = head_objective(objective)
    head = find_linear_head(restricted)
    assert head is not None
    if not head.single_position:
        raise UnsupportedError(
            "the last linear layer maps several positions of each example (tokens), so an example has no one "
            "feature vector; expected one vector per example. Make each position an example of its own."
        )
    chosen = as_examples(objective, examples)
    own = set(restricted.parameters.names)
    names = [name for name in objective.parameters.names if name not in own]
    where = _input(objective, input)
    p = sum(objective.parameters.values[name].numel() for name in names)
    size = fitting(objective.memory * _SHARE, 4 * p * objective.dtype.itemsize, objective.pass_size)
    pull = _puller(objective, names)
    made: list[tuple[Tensor, ...]] = []
    kept: list[list[Tensor]] = []
    weight = restricted.parameters.values[
        next(n for n in restricted.parameters.names if n.endswith("weight"))
    ]
    for _, batch in chosen.batches(size):
        features, residual, outputs = _head_side(restricted, head, batch)
        rows = residual.reshape(outputs.shape)
        parts = [] if pull is None else [part[:, 0] for part in pull(batch, rows[None])]
        norms = sum((part.square().sum(1) for part in parts), start=residual.new_zeros(len(residual))).sqrt()
        slope = (
            features.new_zeros(len(features), 0) if where is None else _slope(objective, where, batch, rows)
        )
        made.append((residual, features, residual @ weight, norms, slope))
        if keep_parameters:
            kept.append(parts)
    residuals, features, feature_gradients, parameter_norms, slopes = map(torch.cat, zip(*made))
    gradients = None
    if keep_parameters:
        gradients = {
            name: torch.cat(parts).reshape(-1, *objective.parameters.values[name].shape)
            for name, parts in zip(names, zip(*kept))
        }
    return GradientSplit(
        residuals=residuals,
        features=features,
        feature_gradients=feature_gradients,
        parameter_norms=parameter_norms,
        input_gradients=None if where is None else slopes,
        parameter_gradients=gradients,
        has_bias=head.module.bias is not None,
        head=next(name for name, module in objective.model.named_modules() if module is head.module),
    )


def _head_side(restricted: Objective, head: LinearHead, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Features `(b, d)`, residuals `(b, c)` and the outputs."""
    features, outputs = head.features(batch)
    leaf = outputs.detach().requires_grad_()
    with torch.enable_grad():
        losses = restricted.loss(leaf, restricted.targets(batch))
        (residual,) = torch.autograd.grad(losses.sum(), leaf)
    return features[:, 0], residual.reshape(len(features), -1), outputs


def _slope(objective: Objective, where: ContinuousInput, batch: Any, cotangents: Tensor) -> Tensor:
    """`(∂z/∂x)ᵀ r` for every example of a batch: one backward pass, as no example's outputs see another's."""
    x = where.read(batch).detach().requires_grad_()
    with torch.enable_grad(), differentiable_attention():
        outputs = objective.outputs(objective.parameters.values, where.write(batch, x))
        (made,) = torch.autograd.grad(outputs, x, cotangents, materialize_grads=True)
    return made


def _puller(objective: Objective, names: list[str]) -> Any:
    """Per-example pull-backs to some parameters, by the way that works; `None` for no parameters."""
    if not names:
        return None
    if vmap_failure(objective) is None:
        return vmapped_vjp_each(objective, names)
    return looped_vjp_each(objective, names)


def _input(objective: Objective, input: int | str | None) -> ContinuousInput | None:
    batch = objective.examples.batch([0])
    targets = {id(leaf) for leaf in tree_flatten(objective.targets(batch))[0]}
    leaves = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and id(leaf) not in targets]
    if input is None and not any(leaf.is_floating_point() for leaf in leaves):
        return None
    return find_input(objective, input)

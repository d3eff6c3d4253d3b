"""Which replacement of a single token of a training example would change a query most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.gradients.autograd import AutogradLinearisation, looped_vjp_each
from wherefrom.influence.continuous_input import find_module, only_call, perturbable_output
from wherefrom.influence.fit import Fit
from wherefrom.influence.input_influence import solve_measurement
from wherefrom.influence.measurements import Measurement, resolve_measurement
from wherefrom.influence.mixed_derivative import check_mixed_derivative, input_gradients
from wherefrom.influence.scores import check_indices


@dataclass(frozen=True)
class TokenReplacements:
    """Replacements of one token each, the largest predicted change first.

    Attributes:
        example: training index.
        position: of the token, `(r,)`.
        token: what it is replaced by, `(r,)`.
        original: what stood there, `(r,)`.
        first_order: predicted change of the measurement after retraining, `I_pert · (e' − e) / n` with the
            difference of the embeddings, `(r,)`.
        exact: the same with the gradient of the edited example instead of its linearisation,
            `−sᵀ(g_{z'} − g_z) / n`, `(r,)`; the order is by this.
        considered: how many replacements were ranked to first order.
        measurement: its name.
    """

    example: int
    position: Int[Tensor, " r"]
    token: Int[Tensor, " r"]
    original: Int[Tensor, " r"]
    first_order: Float[Tensor, " r"]
    exact: Float[Tensor, " r"]
    considered: int
    measurement: str

    def __len__(self) -> int:
        return len(self.position)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for r in range(len(self)):
            yield {
                "position": int(self.position[r]),
                "original": int(self.original[r]),
                "token": int(self.token[r]),
                "first_order": float(self.first_order[r]),
                "exact": float(self.exact[r]),
            }


def token_replacements(
    fitted: Fit,
    example: int,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    *,
    embedding: nn.Embedding | str,
    direction: Literal["raise", "lower", "either"] = "either",
    top: int = 20,
    rescore: int = 200,
    candidates: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> TokenReplacements:
    """Rank all replacements of one token by embedding differences, then score the best of them exactly.

    Args:
        fitted: the fitted influence function.
        example: training index.
        queries: the mean of the measurement over them is what is changed.
        measurement: what is measured on a query.
        embedding: the `nn.Embedding` that reads the tokens, or its name.
        direction: whether the measurement is to be raised, lowered, or either.
        top: replacements returned.
        rescore: the best by first order that are scored exactly.
        candidates: tokens that may be put in; by default the whole vocabulary but the padding token.
        positions: where; by default every position that holds no padding token.

    Raises:
        InputError: an index outside the training set, no queries, tokens outside the vocabulary, positions
            outside the example, or a module that is no embedding of one tensor of the batch.
    """
    if direction not in ("raise", "lower", "either"):
        raise InputError(f"direction={direction!r}: expected 'raise', 'lower' or 'either'")
    top, rescore = whole("top", top, 1), whole("rescore", rescore, 1)
    objective = fitted.objective
    module = find_module(objective, embedding)
    if not isinstance(module, nn.Embedding):
        raise InputError(
            f"embedding= is a {type(module).__name__}; expected the nn.Embedding that reads the tokens"
        )
    index = int(check_indices([example], objective.n)[0])
    batch = objective.examples.batch([index])
    tokens, leaf = _tokens(fitted, batch, module)
    at, put = _choices(module, tokens, candidates, positions)
    check_mixed_derivative(fitted.engine.probe, module)
    measured = resolve_measurement(measurement, objective.loss)
    solution, _ = solve_measurement(fitted, queries, measured, mean=True)
    pert = input_gradients(objective, batch, module, solution)[0, 0]
    table = _weights(fitted, module)
    own = tokens[at]
    # I · (E[v] − E[x_t]) for every position and token at once.
    change = (pert[at] @ table[put].T - (pert[at] * table[own]).sum(1, keepdim=True)) / objective.n
    change = change.masked_fill(own[:, None] == put[None], 0.0)
    sign = {"raise": 1.0, "lower": -1.0}.get(direction)
    rank = change.abs() if sign is None else sign * change
    best = rank.flatten().argsort(descending=True, stable=True)[:rescore]
    best = best[(own[:, None] != put[None]).flatten()[best]]
    row, column = best // len(put), best % len(put)
    exact = _exact(fitted, batch, leaf, at[row], put[column], solution)
    order = (exact.abs() if sign is None else sign * exact).argsort(descending=True, stable=True)[:top]
    return TokenReplacements(
        index,
        at[row][order].cpu(),
        put[column][order].cpu(),
        own[row][order].cpu(),
        change.flatten()[best][order].cpu(),
        exact[order].cpu(),
        int((own[:, None] != put[None]).sum()),
        measured.name,
    )


def _tokens(fitted: Fit, batch: Any, module: nn.Embedding) -> tuple[Tensor, int]:
    """The tokens `(t,)` that the embedding reads of one example, and which leaf of the batch they are."""
    objective = fitted.objective
    with torch.no_grad(), perturbable_output(module) as calls:
        objective.outputs(objective.parameters.values, batch)
    read = only_call(calls)[0]
    leaves = tree_flatten(batch)[0]
    found = [
        position
        for position, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.shape == read.shape and torch.equal(leaf, read)
    ]
    if not found or read.ndim != 2 or read.shape[0] != 1:
        raise InputError(
            f"the embedding reads a tensor of shape {tuple(read.shape)} for one example; expected one of the "
            "batch's own tensors, (1, tokens), so that a replaced token can be put back into the batch"
        )
    return read[0], found[0]


def _choices(
    module: nn.Embedding, tokens: Tensor, candidates: Sequence[int] | None, positions: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Positions and tokens to try."""
    vocabulary, padding = module.num_embeddings, module.padding_idx
    if candidates is None:
        put = [token for token in range(vocabulary) if token != padding]
    else:
        put = sorted({int(token) for token in candidates})
        if not put or put[0] < 0 or put[-1] >= vocabulary:
            raise InputError(
                f"candidates: found {len(put)} tokens{f' from {put[0]} to {put[-1]}' if put else ''}; "
                f"expected at least one, each from 0 to {vocabulary - 1}, the vocabulary"
            )
    if positions is None:
        at = [t for t, token in enumerate(tokens.tolist()) if token != padding]
    else:
        at = sorted({int(position) for position in positions})
        if not at or at[0] < 0 or at[-1] >= len(tokens):
            raise InputError(
                f"positions={list(positions)!r}: expected at least one from 0 to {len(tokens) - 1}, the "
                "tokens of this example"
            )
    where, what = (torch.tensor(choice, device=tokens.device, dtype=torch.long) for choice in (at, put))
    return where, what


def _weights(fitted: Fit, module: nn.Embedding) -> Float[Tensor, "v d"]:
    """The embeddings in the computation's dtype, at the parameters that are studied."""
    return module.weight.detach().to(fitted.objective.device, fitted.objective.dtype)


def _exact(
    fitted: Fit,
    batch: Any,
    leaf: int,
    at: Int[Tensor, " r"],
    put: Int[Tensor, " r"],
    solution: Float[Tensor, "p 1"],
) -> Float[Tensor, " r"]:
    """`−sᵀ(g_{z'} − g_z) / n` for every edited example."""
    objective = fitted.objective
    changes = []
    before = _gradient_products(fitted, batch, solution)
    size = fitted.engine.batch_size
    for where, what in zip(at.split(size), put.split(size)):
        many = tree_map(partial(_repeated, times=len(where)), batch)
        leaves, structure = tree_flatten(many)
        tokens = leaves[leaf].clone()
        tokens[torch.arange(len(where), device=tokens.device), where] = what.to(tokens.dtype)
        leaves[leaf] = tokens
        after = _gradient_products(fitted, tree_unflatten(leaves, structure), solution)
        changes.append(-(after - before) / objective.n)
    return torch.cat(changes) if changes else solution.new_zeros(0)


def _repeated(value: Any, times: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == 1:
        return value.expand(times, *value.shape[1:])
    return value


def _gradient_products(fitted: Fit, batch: Any, solution: Float[Tensor, "p 1"]) -> Float[Tensor, " b"]:
    """`sᵀ g_i` for every example of a batch."""
    at = AutogradLinearisation(
        fitted.objective,
        batch,
        each=looped_vjp_each(fitted.objective),
        forward=fitted.engine.forward_products,
    )
    tangents = at.jvp(solution)[0]
    return (tangents * at.output_gradient(fitted.objective.loss)).flatten(1).sum(1)

"""Which training examples an attack edits: those whose inputs can move the queries most."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.studies.attack.budget import Budget
from wherefrom.studies.attack.features import FeatureReader
from wherefrom.studies.attack.head import HeadProblem

# Training examples whose feature gradients are held at once, for all attacks of a block.
_CHUNK = 256


def feature_gradients(
    problem: HeadProblem,
    heads: Float[Tensor, "B c d"],
    solved: Float[Tensor, "B c d"],
    features: Float[Tensor, "B m d"],
    index: Int[Tensor, "B m"],
) -> Float[Tensor, "B m d"]:
    """`−∇_e (s_bᵀ ∇_W ℓ_i)`: the influence with respect to the features of each attack's own examples.

    The gradient of a head is `∇_f ℓ ẽᵀ`, so `sᵀ∇_W ℓ = ∇_f ℓ · (S ẽ)`; what is left to do for the influence
    with respect to the input is one backward pass through the frozen layers.
    """
    count, m, _ = features.shape
    leaf = features.detach().requires_grad_()
    with torch.enable_grad():
        outputs = problem.outputs(heads, leaf)
        losses = problem.loss(problem.shaped(outputs), problem.targets_of(index))
        (slope,) = torch.autograd.grad(losses.sum(), outputs, create_graph=True)
        product = (slope * (leaf @ solved.transpose(1, 2))).sum()
        (made,) = torch.autograd.grad(product, leaf)
    return -made.reshape(count, m, -1)


def input_gradient(
    features: Float[Tensor, "b d"],
    x: Float[Tensor, " b *x"],
    slope: Float[Tensor, "b d"],
    *,
    keep: bool = False,
) -> Float[Tensor, " b *x"]:
    """Pull a gradient in the features back to the inputs."""
    (made,) = torch.autograd.grad(features, x, slope, retain_graph=keep, materialize_grads=True)
    return made


def choose_examples(
    problem: HeadProblem,
    reader: FeatureReader,
    heads: Float[Tensor, "B c d"],
    solved: Float[Tensor, "B c d"],
    *,
    edits: int,
    budget: Budget,
    candidates: Int[Tensor, " m"],
    shortlist: int | None,
) -> Int[Tensor, "B k"]:
    """For each attack the `edits` candidates of largest `‖I_pert‖`, in the norm dual to the budget's.

    Args:
        problem, reader: the head, and the features in front of it.
        heads, solved: `W_b` and `s_b` of each attack.
        edits: how many examples are chosen.
        budget: its norm decides what large is.
        candidates: training indices to choose from.
        shortlist: look through the frozen layers only for so many candidates of each attack, those of largest
            gradient in the features times the gain of `FeatureReader.gains`; `None`: for all.
    """
    size = None if shortlist is None else max(shortlist, 4 * edits)
    if size is None or size >= len(candidates):
        norms = _all_norms(problem, reader, heads, solved, candidates, budget.dual)
        return candidates[norms.topk(edits, dim=1).indices]
    rough = torch.cat(
        [
            _feature_norms(problem, heads, solved, part) * reader.gains(budget.dual)[part]
            for part in candidates.split(_CHUNK)
        ],
        dim=1,
    )
    kept = candidates[rough.topk(size, dim=1).indices]
    norms = _own_norms(problem, reader, heads, solved, kept, budget.dual)
    return kept.gather(1, norms.topk(edits, dim=1).indices)


def _feature_norms(
    problem: HeadProblem, heads: Tensor, solved: Tensor, part: Int[Tensor, " m"]
) -> Float[Tensor, "B m"]:
    count = len(heads)
    slope = feature_gradients(
        problem,
        heads,
        solved,
        problem.features[part].expand(count, -1, -1),
        part.expand(count, -1),
    )
    return slope[:, :, : problem.module.in_features].norm(dim=2)


def _all_norms(
    problem: HeadProblem,
    reader: FeatureReader,
    heads: Tensor,
    solved: Tensor,
    candidates: Tensor,
    order: float,
) -> Float[Tensor, "B m"]:
    """Every attack against every candidate: one forward pass a candidate, one backward pass a pair."""
    columns = []
    for part in candidates.split(reader.batch_size):
        x = reader.inputs(part).clone().requires_grad_()
        with torch.enable_grad():
            features = reader(part, x)
        own = features.detach().expand(len(heads), -1, -1)
        slopes = feature_gradients(problem, heads, solved, own, part.expand(len(heads), -1))
        norms = [
            input_gradient(features, x, slope, keep=True).flatten(1).norm(p=order, dim=1) for slope in slopes
        ]
        columns.append(torch.stack(norms))
    return torch.cat(columns, dim=1)


def _own_norms(
    problem: HeadProblem,
    reader: FeatureReader,
    heads: Tensor,
    solved: Tensor,
    kept: Int[Tensor, "B m"],
    order: float,
) -> Float[Tensor, "B m"]:
    """Every attack against its own candidates."""
    count, m = kept.shape
    slopes = feature_gradients(problem, heads, solved, problem.features[kept], kept).reshape(count * m, -1)
    norms = []
    for part, slope in zip(kept.reshape(-1).split(reader.batch_size), slopes.split(reader.batch_size)):
        x = reader.inputs(part).clone().requires_grad_()
        with torch.enable_grad():
            features = reader(part, x)
        norms.append(input_gradient(features, x, slope).flatten(1).norm(p=order, dim=1))
    return torch.cat(norms).reshape(count, m)

"""An operator seen by some of its coordinates only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.linalg.operators import DenseOperator, LinearOperator


class RestrictedOperator(LinearOperator):
    """The principal submatrix of chosen parameters (a layer, a group): the curvature when all others are held
    fixed. Its eigenvalues lie between the operator's own (Cauchy's interlacing).

    Args:
        operator: on all `p` parameters.
        index: the chosen ones: positions, a mask of length `p`, a slice, or slices (a layer's, as
            `FactoredOperator.layers` gives them).

    Attributes:
        index: their positions, in the given order.

    Raises:
        InputError: nothing chosen, a position twice or out of range, or a mask of another length.

    Cost: a product with the whole operator for each of its products.
    """

    def __init__(self, operator: LinearOperator, index: Tensor | Sequence[int | slice] | slice):
        self.index = _positions(operator.size, index).to(operator.device)
        super().__init__(len(self.index), operator.dtype, operator.device, operator.lower_bound)
        self.operator = operator
        self.n_examples = operator.n_examples

    def matmat(self, vectors: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
        # Columns contiguous: the layout in which operators read them.
        whole = vectors.new_zeros(vectors.shape[1], self.operator.size).T
        whole[self.index] = vectors
        return self.operator.matmat(whole)[self.index]

    def sampled(self, indices: Int[Tensor, " b"]) -> LinearOperator:
        return RestrictedOperator(self.operator.sampled(indices), self.index)

    def compact(self) -> LinearOperator:
        operator = self.operator.compact()
        if isinstance(operator, DenseOperator):
            return DenseOperator(operator.matrix[self.index][:, self.index], self.lower_bound)
        return self if operator is self.operator else RestrictedOperator(operator, self.index)


def _positions(size: int, index: Tensor | Sequence[int | slice] | slice) -> Int[Tensor, " m"]:
    every = torch.arange(size)
    if isinstance(index, slice):
        chosen = every[index]
    elif isinstance(index, Tensor):
        if index.dtype == torch.bool:
            if index.shape != (size,):
                raise InputError(f"index: a mask of shape {tuple(index.shape)}; expected ({size},)")
            chosen = every[index.cpu()]
        elif index.ndim != 1 or index.is_floating_point() or index.is_complex():
            raise InputError(
                f"index: {index.dtype} of shape {tuple(index.shape)}; expected whole numbers in one row"
            )
        else:
            chosen = index.cpu().long()
    else:
        parts = [every[part] if isinstance(part, slice) else torch.tensor([part]) for part in index]
        chosen = torch.cat(parts) if parts else every[:0]
    if len(chosen) == 0:
        raise InputError("index chooses no parameter; expected at least one")
    if int(chosen.min()) < 0 or int(chosen.max()) >= size:
        outside = chosen[(chosen < 0) | (chosen >= size)][0]
        raise InputError(f"index: position {int(outside)}; expected 0 … {size - 1}")
    if len(chosen.unique()) != len(chosen):
        raise InputError("index chooses a parameter twice; expected each position once")
    return chosen

"""What every `GradientForm` promises, as one call that a test of a new form can make."""

from __future__ import annotations

import torch
from torch import Tensor

from wherefrom.layers import GradientForm


def check_gradient_form(form: GradientForm, *, seed: int = 0, rtol: float | None = None) -> Tensor:
    """Check the algebra of a (small) form against its own explicit gradients, and return these, as
    `(k, b, g, o, i)`.

    Inner products, sums, sums of squares, weighted squares, norms, selections of examples and rotations by
    orthogonal bases (of the activations too, where these are not one-hot) are what they are for explicit
    matrices; the moments are symmetric, rotate with the form, and give the norm of a single outer product.

    Args:
        form: of a few examples and small matrices.
        seed: of the random matrices.
        rtol: allowed relative difference; by default what the dtype allows.

    Raises:
        AssertionError: a promise that is not kept.
    """
    rows = form.rows()
    k, b, (g, o, i) = form.k, form.b, form.shape
    assert rows.shape == (k, b, g * o * i), f"rows: shape {tuple(rows.shape)}, not {(k, b, g * o * i)}"
    same = _Same(1e4 * torch.finfo(rows.dtype).eps if rtol is None else rtol)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(rows)

    explicit = rows.reshape(k, b, g, o, i)
    for part in (slice(0, 1), slice(b // 2, b)):
        chosen = form.select(part)
        same(chosen.rows(), rows[:, part], "rows of some of the examples")
    for q in (1, 3, 2 * max(o, i) + 1):
        matrices = random(q, g, o, i)
        same(
            form.inner(matrices), torch.einsum("kbgoi,qgoi->kbq", explicit, matrices), f"inner, {q} matrices"
        )
    same(form.total(), explicit.sum(1), "total")
    same(form.squares(), explicit.square().sum((0, 1)), "squares")
    weights = random(g, o, i).abs()
    same(form.weighted_squares(weights), (explicit.square() * weights).sum((2, 3, 4)), "weighted_squares")
    same(form.squared_norms(), explicit.square().sum((2, 3, 4)), "squared_norms")
    _check_moments(form, explicit, same)
    _check_rotations(form, explicit, same, random)
    return explicit


class _Same:
    def __init__(self, rtol: float):
        self._rtol = rtol

    def __call__(self, found: Tensor, expected: Tensor, what: str) -> None:
        assert found.shape == expected.shape, (
            f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        )
        worst = float((found.double() - expected.double()).norm())
        scale = float(expected.double().norm())
        assert worst <= self._rtol * (scale + 1e-30), f"{what}: off by {worst:.3g}, norm {scale:.3g}"


def _one_hot(form: GradientForm) -> bool:
    """Whether the activations cannot be rotated: their second moment is a diagonal."""
    return form.activation_moment()[0].ndim == 1


def _check_rotations(form: GradientForm, explicit: Tensor, same: _Same, random: object) -> None:
    g, o, i = form.shape
    assert callable(random)
    left = torch.linalg.qr(random(g, o, o))[0]
    turned = torch.einsum("kbgoi,gop->kbgpi", explicit, left)
    same(form.rotated(left, None).rows(), turned.reshape(form.k, form.b, -1), "rotated from the left")
    same(form.rotated(None, None).rows(), explicit.reshape(form.k, form.b, -1), "rotated by nothing")
    if _one_hot(form):
        return
    right = torch.linalg.qr(random(g, i, i))[0]
    both = torch.einsum("kbgpi,gij->kbgpj", turned, right)
    rotated = form.rotated(left, right)
    same(rotated.rows(), both.reshape(form.k, form.b, -1), "rotated from both sides")
    same(rotated.squares(), both.square().sum((0, 1)), "squares of the rotated form")
    moment, count = form.activation_moment()
    again, recount = rotated.activation_moment()
    assert count == recount, f"activation_moment counts {count} positions, {recount} after a rotation"
    same(again, right.mT @ moment @ right, "activation_moment of the rotated form")
    same(rotated.gradient_moment(), left.mT @ form.gradient_moment() @ left, "gradient_moment, rotated")


def _check_moments(form: GradientForm, explicit: Tensor, same: _Same) -> None:
    g, o, i = form.shape
    activations, count = form.activation_moment()
    gradients = form.gradient_moment()
    assert count >= 0, f"activation_moment counts {count} positions"
    assert gradients.shape == (g, o, o), f"gradient_moment: shape {tuple(gradients.shape)}, not {(g, o, o)}"
    same(gradients, gradients.mT, "gradient_moment against its transpose")
    if activations.ndim == 1:
        assert activations.shape == (i,) and bool((activations >= 0).all())
    else:
        assert activations.shape == (g, i, i), f"activation_moment: shape {tuple(activations.shape)}"
        same(activations, activations.mT, "activation_moment against its transpose")
    # Of a single example and cotangent with one position, tr(A) tr(B) is the squared norm, per matrix.
    single = form.select(slice(0, 1))
    if form.k == 1 and single.activation_moment()[1] == 1.0:
        a, d = single.activation_moment()[0], single.gradient_moment()
        traces = a.sum()[None] if a.ndim == 1 else a.diagonal(dim1=1, dim2=2).sum(1)
        sizes = traces * d.diagonal(dim1=1, dim2=2).sum(1)
        same(sizes, explicit[:, :1].square().sum((0, 1, 3, 4)), "the moments of one outer product")

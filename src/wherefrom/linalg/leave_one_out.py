"""The algebra behind XTrace and XDiag: for each random vector, deflation by the images of all the others."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.linalg.estimates import images
from wherefrom.linalg.operators import LinearOperator


class LeaveOneOutProbes:
    """`m` projectors `P_i` onto the span of `{C ω_j : j ≠ i}`, from one basis of all images.

    With `C Ω = Q R`, `P_i = Q (I − s_i s_iᵀ) Qᵀ`, where `s_i` is the unit vector orthogonal to all columns of
    `R` but the `i`-th. Small matrices are float64. Cost: `2 m` products.

    Attributes:
        basis, image: `Q` and `C Q`, `(p, m)`.
        h: `Qᵀ C Q`.
        r, s: columns of `R`, and the `s_i`.
        w, squares: `Qᵀ Ω`, and the `‖ω_i‖²`.
        c: columns `(I − s_i s_iᵀ) Qᵀ ω_i`: `P_i ω_i` in the basis.

    Source: Epperly, Tropp & Webber 2024, *XTrace*, SIAM J. Matrix Anal. Appl. 45, §4.1.
    """

    def __init__(self, operator: LinearOperator, probes: Float[Tensor, "p m"]):
        m = probes.shape[1]
        self.basis, r = torch.linalg.qr(images(operator, probes, "sketch"))
        self.image = images(operator, self.basis, "basis of the sketch")
        h = (self.basis.T @ self.image).double()
        self.h = (h + h.T) / 2
        self.r = r.double()
        # A low-rank operator leaves R singular; any vector orthogonal to the range will do then.
        ridge = torch.finfo(operator.dtype).eps * float(self.r.abs().max())
        diagonal = self.r.diagonal()
        small = diagonal.abs() <= ridge
        regular = self.r + torch.diag(torch.where(small, ridge if ridge > 0 else 1.0, 0.0).to(self.r))
        unit = torch.eye(m, dtype=torch.float64, device=self.r.device)
        s = torch.linalg.solve_triangular(regular.T, unit, upper=False)
        self.s = s / s.norm(dim=0)
        self.squares = probes.double().square().sum(0)
        self.w = (self.basis.T @ probes).double()
        self.c = self.w - self.s * (self.s * self.w).sum(0)

    def inside_traces(self) -> Float[Tensor, " m"]:
        """`tr(P_i C P_i)`."""
        return self.h.trace() - (self.s * (self.h @ self.s)).sum(0)

    def outside_energies(self) -> Float[Tensor, " m"]:
        """`u_iᵀ C u_i` for `u_i = (I − P_i) ω_i`."""
        return ((self.w - 2 * self.c) * self.r + self.c * (self.h @ self.c)).sum(0)

    def outside_squares(self) -> Float[Tensor, " m"]:
        """`‖u_i‖²`."""
        return self.squares - self.c.square().sum(0)

    def inside_diagonals(self, basis: Tensor, image: Tensor) -> Float[Tensor, "b m"]:
        """Some rows of `diag(P_i C + C P_i − P_i C P_i)`, from those rows of `Q` and `C Q`."""
        rotated, s = basis @ self.h, self.s
        qs = basis @ s
        # With G = I − s sᵀ: diag(2 Q G (CQ)ᵀ − Q G H G Qᵀ).
        whole = (basis * (2 * image - rotated)).sum(1)
        hs = self.h @ s
        shs = (s * hs).sum(0)
        return whole[:, None] - qs * (2 * (image @ s) - 2 * (basis @ hs) + qs * shs)

    def outside_images(self, basis: Tensor, image: Tensor) -> Float[Tensor, "b m"]:
        """Some rows of `(I − P_i) C u_i`."""
        d = self.r - self.h @ self.c  # Qᵀ C u_i
        d = d - self.s * (self.s * d).sum(0)
        return basis @ (self.r - d) - image @ self.c


class LeaveTwoOut:
    """The same where vector `i` had never been drawn, for every `j`: projectors `P_ij = P_j − (Q t)(Q t)ᵀ`.

    `t = (s_i − g s_j)/√(1 − g²)`, `g = s_i·s_j`, is what leaves the span beside `s_j`. Small matrices have
    entries `(i, j)`; their diagonals mean nothing. No further products.
    """

    def __init__(self, one: LeaveOneOutProbes):
        self.one = one
        s, c, r = one.s, one.c, one.r
        self.g = s.T @ s
        square = 1 - self.g.square()
        # Where the two are parallel the sketch is of lower rank than m, and nothing leaves.
        self.scale = torch.where(square > 1e-8, square.clamp(min=1e-300).rsqrt(), 0.0)
        hs = one.h @ s
        shs = s.T @ hs
        own = shs.diagonal()
        self.sht = (shs - self.g * own) * self.scale  # s_jᵀ H t
        self.tht = (own[:, None] - 2 * self.g * shs + self.g.square() * own) * self.scale.square()
        self.alpha = self._of_t(s.T @ one.w)  # t·Qᵀω_j
        self.td = self._of_t(s.T @ (r - one.h @ c))  # t·Qᵀ C u_j

    def _of_t(self, of_s: Tensor) -> Tensor:
        """A linear function of `t` from its values at the `s_i`."""
        return (of_s - self.g * of_s.diagonal(dim1=-2, dim2=-1)[..., None, :]) * self.scale

    def inside_traces(self) -> Float[Tensor, "m m"]:
        """`tr(P_ij C P_ij)`."""
        return self.one.inside_traces() - self.tht

    def outside_energies(self) -> Float[Tensor, "m m"]:
        """`u_ijᵀ C u_ij`."""
        return self.one.outside_energies() + self.alpha * (2 * self.td + self.alpha * self.tht)

    def outside_squares(self) -> Float[Tensor, "m m"]:
        """`‖u_ij‖²`."""
        return self.one.outside_squares() + self.alpha.square()

    def diagonals(
        self, basis: Float[Tensor, "b m"], image: Float[Tensor, "b m"], probes: Float[Tensor, "b m"]
    ) -> Float[Tensor, "b m m"]:
        """What the estimates of some entries of the diagonal gain over those that leave out `j` alone."""
        one = self.one
        qs = basis @ one.s
        k = image @ one.s - basis @ (one.h @ one.s)
        qt = (qs[:, :, None] - self.g * qs[:, None, :]) * self.scale
        # Rows of (I − P_j) C Q t.
        f = (k[:, :, None] - self.g * k[:, None, :]) * self.scale + qs[:, None, :] * self.sht
        inside = -qt * (2 * f + qt * self.tht)
        return inside + probes[:, None, :] * (self.alpha * f + qt * (self.td + self.alpha * self.tht))


def standard_error(each: Float[Tensor, "*rest m"], without: Float[Tensor, "*rest m m"]) -> Tensor:
    """Of the mean of `m` leave-one-out estimates, given also those `(i, j)` where `i` had not been drawn.

    The estimates share their vectors, so that their spread alone says too little. Split the mean's variance
    into what single vectors, pairs, triples … of them contribute, `V_1 + V_2 + V_3 + …` (Hoeffding). Estimate
    `j` is unbiased whatever the others are, so the squared spread over `m` holds at least `V_k/k`; the
    jackknife holds `k V_k` (Efron & Stein 1981, *The jackknife estimate of variance*). Two thirds of the one
    and a third of the other are `V_1 + V_2` and at least each further `V_k`.
    """
    m = each.shape[-1]
    spread = each.var(-1) / m
    off = without.sum(-1) - without.diagonal(dim1=-2, dim2=-1)
    jackknife = (m - 1) ** 2 / m * (off / (m - 1)).var(-1)
    return ((2 * spread + jackknife) / 3).sqrt()

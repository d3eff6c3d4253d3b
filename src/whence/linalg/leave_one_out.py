"""The algebra behind XTrace and XDiag: for each random vector, deflation by the images of all the others."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from whence.linalg.estimates import images
from whence.linalg.operators import LinearOperator


class LeaveOneOut:
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

    def without_another(self) -> tuple[Float[Tensor, "m m"], Float[Tensor, "m m"], Float[Tensor, "m m"]]:
        """What `inside_traces`, `outside_energies` and `outside_squares` are at `j` if vector `i` had never
        been drawn: entries `(i, j)`; the diagonals mean nothing."""
        s, h, c = self.s, self.h, self.c
        g = s.T @ s  # g_ij = s_i·s_j
        # t = (s_i − g s_j)/√(1 − g²) is what leaves the span beside s_j. Where the two are parallel the
        # sketch is of lower rank than m, and nothing leaves.
        square = 1 - g.square()
        scale = torch.where(square > 1e-8, square.clamp(min=1e-300).rsqrt(), 0.0)
        shs, shc, sw = s.T @ h @ s, s.T @ h @ c, s.T @ self.w
        tht = (shs.diagonal()[:, None] - 2 * g * shs + g.square() * shs.diagonal()) * scale.square()
        alpha = (sw - g * sw.diagonal()) * scale  # t·ω_j
        thc = (shc - g * shc.diagonal()) * scale
        tr = -g * (s * self.r).sum(0) * scale
        energies = self.outside_energies() + alpha * (2 * tr - 2 * thc + alpha * tht)
        return self.inside_traces() - tht, energies, self.outside_squares() + alpha.square()

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

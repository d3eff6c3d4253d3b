"""What every `Loss` promises, as one call that a test of a new loss can make: checked against float64
autograd of the loss itself."""

from __future__ import annotations

import json

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from wherefrom.errors import UnsupportedError
from wherefrom.losses import Loss


def check_loss(loss: Loss, outputs: Tensor, targets: Tensor, *, draws: int = 2000) -> None:
    """Check the contract of a loss at some outputs and targets.

    One finite number per example, of that example alone; slopes, curvature blocks, their products and square
    roots equal those of autograd, in every mode of differentiation and under `vmap`; the view in blocks has
    its inverse; a convex loss has no negative eigenvalue; for the
    negative logarithm of a likelihood, drawn gradients have the moments of the Fisher matrix.

    Args:
        loss: your own or Wherefrom's.
        outputs: `(b, …)` in float64, of two examples or more, where the loss has two derivatives.
        targets: a tensor with one entry per example.
        draws: labels drawn to compare moments, which are taken to be right within six standard errors.

    Raises:
        AssertionError: a promise that is not kept.
    """
    assert isinstance(loss.name, str) and loss.name, "name is empty"
    json.dumps(loss.settings())
    loss.validate(outputs, targets)
    values = loss(outputs, targets)
    assert values.shape == outputs.shape[:1], (
        f"losses of shape {tuple(values.shape)}, one per example expected"
    )
    assert bool(torch.isfinite(values).all()), "a loss is not finite"
    least, most = loss.range
    assert bool(((values >= least) & (values <= most)).all()), f"a loss is outside range {loss.range}"
    each = torch.cat([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs))])
    torch.testing.assert_close(each, values, msg="a loss depends on the other examples of its batch")
    check_differentiation(loss, outputs, targets)
    check_curvature(loss, outputs, targets)
    _check_roots(loss, outputs, targets)
    try:
        loss.fisher_sqrt_blocks(outputs, targets)
    except UnsupportedError:
        return
    check_fisher(loss, outputs, targets, draws)


def _check_roots(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    blocks = loss.hessian_blocks(outputs, targets)
    if loss.shift_invariant:
        torch.testing.assert_close(blocks.sum(-1), torch.zeros_like(blocks[..., 0]), msg="S 1 is not 0")
    try:
        root = loss.hessian_sqrt_blocks(outputs, targets)
    except UnsupportedError:
        assert not loss.convex, "a convex loss has no square root of its curvature"
        return
    torch.testing.assert_close(root @ root.mT, blocks)
    columns = loss.root_columns(blocks.shape[-1])
    assert root.shape[-1] == columns, f"root_columns says {columns}, the root has {root.shape[-1]}"
    part = loss.hessian_sqrt_part(outputs, targets, slice(0, 1), slice(0, 1))
    torch.testing.assert_close(part, root[:, :1, :, :1], msg="hessian_sqrt_part is no part of the root")


def dense_hessian(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """`∇²_f ℓ_i` over all outputs of each example, `(b, m, m)`, by double reverse mode."""

    def one(output: Tensor, target: Tensor) -> Tensor:
        return jacrev(jacrev(lambda f: loss(f.reshape(output.shape)[None], target[None])[0]))(
            output.reshape(-1)
        )

    return torch.stack([one(output, target) for output, target in zip(outputs, targets)])


def block_diagonal(loss: Loss, blocks: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """Blocks `(b, s, c, c)` as a matrix over all outputs of each example, in the outputs' own order."""
    size = outputs[0].numel()
    units = (
        torch.eye(size, dtype=outputs.dtype).reshape(size, 1, *outputs.shape[1:]).expand(size, *outputs.shape)
    )
    columns = torch.einsum("bscd,kbsd->kbsc", blocks, loss.to_blocks(units, outputs, targets))
    return loss.from_blocks(columns, outputs, targets).reshape(size, len(outputs), size).movedim(0, -1)


def check_curvature(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Blocks, square root and product agree with the dense Hessian; the block view has its inverse."""
    dense = dense_hessian(loss, outputs, targets)
    blocks = loss.hessian_blocks(outputs, targets)
    torch.testing.assert_close(block_diagonal(loss, blocks, outputs, targets), dense)
    torch.testing.assert_close(blocks, blocks.mT)
    vectors = torch.randn(3, 2, *outputs.shape, dtype=outputs.dtype)
    expected = torch.einsum("bij,klbj->klbi", dense, vectors.reshape(3, 2, len(outputs), -1)).reshape(
        vectors.shape
    )
    torch.testing.assert_close(loss.hessian_apply(vectors, outputs, targets), expected)
    torch.testing.assert_close(
        loss.hessian_apply(vectors[0, 0], outputs, targets), expected[0, 0], rtol=1e-7, atol=1e-12
    )
    there = loss.to_blocks(vectors, outputs, targets)
    assert there.shape == (3, 2, *blocks.shape[:3])
    torch.testing.assert_close(loss.from_blocks(there, outputs, targets), vectors, rtol=0, atol=0)
    if loss.convex:
        root = loss.hessian_sqrt_blocks(outputs, targets)
        torch.testing.assert_close(root @ root.mT, blocks)
        assert torch.linalg.eigvalsh(blocks).min() > -1e-12 * max(1.0, float(blocks.abs().max()))


def check_output_gradient(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """The slopes are those of autograd, carry no graph, and have the outputs' shape and dtype."""
    leaf = outputs.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, targets).sum(), leaf)
    found = loss.output_gradient(leaf, targets)
    assert found.shape == outputs.shape and found.dtype == outputs.dtype and not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


def check_differentiation(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """One example at a time under vmap gives the batch's losses; every mode of second derivative agrees."""

    def single(f: Tensor, y: Tensor) -> Tensor:
        return loss(f[None], y[None])[0]

    torch.testing.assert_close(vmap(single)(outputs, targets), loss(outputs, targets))
    check_output_gradient(loss, outputs, targets)
    reverse = vmap(jacrev(jacrev(single)))(outputs, targets)
    torch.testing.assert_close(vmap(jacfwd(jacrev(single)))(outputs, targets), reverse)
    torch.testing.assert_close(vmap(jacfwd(jacfwd(single)))(outputs, targets), reverse)
    tangent = torch.randn_like(outputs)
    summed = grad(lambda f: loss(f, targets).sum())
    product = jvp(summed, (outputs,), (tangent,))[1]
    torch.testing.assert_close(product, loss.hessian_apply(tangent, outputs, targets))


def check_fisher(loss: Loss, outputs: Tensor, targets: Tensor, draws: int = 2000) -> None:
    """The Fisher's root gives the Hessian, and drawn gradients have its moments."""
    root = loss.fisher_sqrt_blocks(outputs, targets)
    fisher = root @ root.mT
    torch.testing.assert_close(fisher, loss.hessian_blocks(outputs, targets))
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(draws, *root.shape[:2], generator=generator, dtype=torch.float64)
    drawn = torch.stack([loss.sample_gradients(outputs, targets, one) for one in uniforms])
    spread = fisher.diagonal(dim1=-2, dim2=-1).sqrt() / draws**0.5
    assert (drawn.mean(0).abs() <= 6 * spread + 1e-12).all()
    products = drawn.unsqueeze(-1) * drawn.unsqueeze(-2)
    allowed = 6 * products.std(0) / draws**0.5 + 1e-12
    assert ((products.mean(0) - fisher).abs() <= allowed).all()
    last = loss.sample_gradients(outputs[-1:], targets[-1:], uniforms[0, -1:])
    torch.testing.assert_close(last, drawn[0, -1:])  # the same label, whatever the batch

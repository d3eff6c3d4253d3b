"""Drawn labels: the eigenvalues need draws of their own, or the basis fits the sample."""

from __future__ import annotations

import torch

from tests.problems import PROBLEMS
from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.kronecker import KroneckerOptions
from wherefrom.curvature.kronecker.gather import KroneckerGathering
from wherefrom.curvature.metrics import LossHessianMetric
from wherefrom.gradients import GradientEngine, LayerGradients


def test_eigenvalues_from_draws_of_their_own_are_unbiased_in_the_basis_of_the_first():
    objective = PROBLEMS["tanh_mlp"]().objective()
    engine = GradientEngine(objective)
    operator = GaussNewtonOperator(engine, LossHessianMetric(objective.loss))
    layers = LayerGradients(engine)
    dense = operator.to_dense().double()
    redrawn, shared = [], []
    for seed in range(80):
        options = KroneckerOptions(labels="sampled", seed=seed)
        gathering = KroneckerGathering(operator, layers, options, progress=False)
        bases = gathering.bases(gathering.moments())
        found = gathering.curvature(bases, gathering.eigenvalues(bases))
        gathering._eigenvalue_metric = gathering._metric
        same = gathering.curvature(bases, gathering.eigenvalues(bases))
        block, basis = layers.blocks[0], bases[0]
        index = block.index.reshape(-1)
        vectors = torch.kron(basis.left[0].contiguous(), basis.right[0].contiguous()).double()
        truth = (vectors.T @ dense[index][:, index] @ vectors).diagonal()
        # Directions that the first draws never saw are where shared draws go wrong.
        unseen = truth.argsort()[: len(truth) // 3]
        redrawn.append(float((found.eigenvalues[0].reshape(-1).double() - truth)[unseen].sum()))
        shared.append(float((same.eigenvalues[0].reshape(-1).double() - truth)[unseen].sum()))
    own, both = torch.tensor(redrawn), torch.tensor(shared)
    error = float(own.std()) / len(own) ** 0.5
    assert abs(float(own.mean())) < 4 * error
    assert float(both.mean()) < -4 * float(both.std()) / len(both) ** 0.5

"""Curvature matrices of the objective as linear operators, and the closed forms of a softmax head."""

from wherefrom.curvature.choose import CURVATURES, Curvature, choose_curvature
from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.head_operator import BlockwiseHeadOperator, HeadHessianOperator
from wherefrom.curvature.hessian import HessianOperator
from wherefrom.curvature.of_examples import CurvatureOfExamples, WeightedExamples
from wherefrom.curvature.softmax import (
    HeadGradient,
    blockwise_head_hessian,
    head_gradient_split,
    head_hessian,
    softmax_jacobian,
    softmax_jacobian_apply,
)
from wherefrom.linalg import (
    DiagonalEstimate,
    Eigenpairs,
    Estimate,
    RestrictedOperator,
    SpectralDensity,
    estimate_diagonal,
    estimate_trace,
    extreme_eigenpairs,
    spectral_density,
)

__all__ = [
    "CURVATURES",
    "BlockwiseHeadOperator",
    "Curvature",
    "CurvatureOfExamples",
    "DiagonalEstimate",
    "Eigenpairs",
    "Estimate",
    "GaussNewtonOperator",
    "HeadGradient",
    "HeadHessianOperator",
    "HessianOperator",
    "RestrictedOperator",
    "SpectralDensity",
    "WeightedExamples",
    "blockwise_head_hessian",
    "choose_curvature",
    "estimate_diagonal",
    "estimate_trace",
    "extreme_eigenpairs",
    "head_gradient_split",
    "head_hessian",
    "softmax_jacobian",
    "softmax_jacobian_apply",
    "spectral_density",
]

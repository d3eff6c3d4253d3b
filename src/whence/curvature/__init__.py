"""Curvature matrices of the objective as linear operators, and the closed forms of a softmax head."""

from whence.curvature.choose import CURVATURES, Curvature, choose_curvature
from whence.curvature.gauss_newton import GaussNewtonOperator
from whence.curvature.hessian import HessianOperator
from whence.curvature.of_examples import CurvatureOfExamples, WeightedExamples
from whence.curvature.softmax import (
    HeadGradient,
    blockwise_head_hessian,
    head_gradient_split,
    head_hessian,
    softmax_jacobian,
    softmax_jacobian_apply,
)

__all__ = [
    "CURVATURES",
    "Curvature",
    "CurvatureOfExamples",
    "GaussNewtonOperator",
    "HeadGradient",
    "HessianOperator",
    "WeightedExamples",
    "blockwise_head_hessian",
    "choose_curvature",
    "head_gradient_split",
    "head_hessian",
    "softmax_jacobian",
    "softmax_jacobian_apply",
]

"""Curvature matrices of the objective as linear operators, and the closed forms of a softmax head."""

from whence.curvature.choose import CURVATURES, Curvature, choose_curvature
from whence.curvature.gauss_newton import GaussNewtonOperator
from whence.curvature.hessian import HessianOperator

__all__ = ["CURVATURES", "Curvature", "GaussNewtonOperator", "HessianOperator", "choose_curvature"]

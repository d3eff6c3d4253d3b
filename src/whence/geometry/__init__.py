"""Gradients in the input and in the parameters, how they bound one another, and both as penalties."""

from whence.geometry.gradient_split import GradientSplit, gradient_split
from whence.geometry.head_share import HeadAgainstNetwork, compare_scores, head_against_network
from whence.geometry.implicit import (
    FlowErrors,
    flow_errors,
    gradient_descent,
    gradient_flow,
    mean_loss,
    modified_loss,
)
from whence.geometry.penalties import input_gradient_penalty, jacobian_penalty, parameter_gradient_penalty

__all__ = [
    "FlowErrors",
    "GradientSplit",
    "HeadAgainstNetwork",
    "compare_scores",
    "flow_errors",
    "gradient_descent",
    "gradient_flow",
    "gradient_split",
    "head_against_network",
    "input_gradient_penalty",
    "jacobian_penalty",
    "mean_loss",
    "modified_loss",
    "parameter_gradient_penalty",
]

"""Gradients in the input and in the parameters, how they bound one another, and both as penalties."""

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
    "flow_errors",
    "gradient_descent",
    "gradient_flow",
    "input_gradient_penalty",
    "jacobian_penalty",
    "mean_loss",
    "modified_loss",
    "parameter_gradient_penalty",
]

"""Gradients in the input and in the parameters, how they bound one another, and both as penalties."""

from whence.geometry.bounds import GradientBounds, LayerBound, gradient_bounds
from whence.geometry.complexity import geometric_complexity
from whence.geometry.gradient_norms import GradientNorms, gradient_norms
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
from whence.geometry.lightning_callback import lightning_monitor
from whence.geometry.monitor import Monitor
from whence.geometry.monitor_file import read_monitor
from whence.geometry.monitor_plot import plot_monitor
from whence.geometry.penalties import input_gradient_penalty, jacobian_penalty, parameter_gradient_penalty
from whence.geometry.scalars import resolve_scalar

__all__ = [
    "FlowErrors",
    "GradientBounds",
    "GradientNorms",
    "GradientSplit",
    "HeadAgainstNetwork",
    "LayerBound",
    "Monitor",
    "compare_scores",
    "flow_errors",
    "geometric_complexity",
    "gradient_bounds",
    "gradient_descent",
    "gradient_flow",
    "gradient_norms",
    "gradient_split",
    "head_against_network",
    "input_gradient_penalty",
    "jacobian_penalty",
    "lightning_monitor",
    "mean_loss",
    "modified_loss",
    "parameter_gradient_penalty",
    "plot_monitor",
    "read_monitor",
    "resolve_scalar",
]

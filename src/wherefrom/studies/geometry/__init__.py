"""Gradients in the input and in the parameters, how they bound one another, and both as penalties."""

from wherefrom.studies.geometry.bounds import GradientBounds, LayerBound, gradient_bounds
from wherefrom.studies.geometry.complexity import geometric_complexity
from wherefrom.studies.geometry.gradient_norms import GradientNorms, gradient_norms
from wherefrom.studies.geometry.gradient_split import GradientSplit, gradient_split
from wherefrom.studies.geometry.head_share import HeadAgainstNetwork, compare_scores, head_against_network
from wherefrom.studies.geometry.implicit import (
    FlowErrors,
    flow_errors,
    gradient_descent,
    gradient_flow,
    mean_loss,
    modified_loss,
)
from wherefrom.studies.geometry.lightning_callback import lightning_monitor
from wherefrom.studies.geometry.monitor import Monitor
from wherefrom.studies.geometry.monitor_file import read_monitor
from wherefrom.studies.geometry.monitor_plot import plot_monitor
from wherefrom.studies.geometry.penalties import (
    input_gradient_penalty,
    jacobian_penalty,
    parameter_gradient_penalty,
)
from wherefrom.studies.geometry.scalars import resolve_scalar

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

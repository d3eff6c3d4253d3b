"""The spectrum of a fit's curvature: where it comes from, and what it says of influence."""

from wherefrom.spectra.class_means import ClassMeans, class_means
from wherefrom.spectra.groups import layer_groups, named_groups
from wherefrom.spectra.layers import LayerCurvature, effective_dimension, layer_curvatures
from wherefrom.spectra.report import SpectrumReport, spectrum_report
from wherefrom.spectra.residual import HessianSplit, split_hessian
from wherefrom.spectra.verdict import GeometryVerdict, judge

__all__ = [
    "ClassMeans",
    "GeometryVerdict",
    "HessianSplit",
    "LayerCurvature",
    "SpectrumReport",
    "class_means",
    "effective_dimension",
    "judge",
    "layer_curvatures",
    "layer_groups",
    "named_groups",
    "spectrum_report",
    "split_hessian",
]

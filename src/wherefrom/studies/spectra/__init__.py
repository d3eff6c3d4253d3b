"""The spectrum of a fit's curvature: where it comes from, and what it says of influence."""

from wherefrom.studies.spectra.class_means import ClassMeans, class_means
from wherefrom.studies.spectra.groups import layer_groups, named_groups
from wherefrom.studies.spectra.layers import LayerCurvature, effective_dimension, layer_curvatures
from wherefrom.studies.spectra.report import SpectrumReport, spectrum_report
from wherefrom.studies.spectra.residual import HessianSplit, split_hessian
from wherefrom.studies.spectra.verdict import GeometryVerdict, judge

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

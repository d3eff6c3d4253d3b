"""Tensors and modules of kinds that are not computed with, refused by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wherefrom.errors import InputError, UnsupportedError


def require_plain(tensor: Tensor, what: str) -> None:
    """Refuse what is no dense array of numbers in memory.

    Args:
        tensor: any.
        what: what it is called in the error.

    Raises:
        InputError: a meta, nested, sparse or quantised tensor.
    """
    if tensor.is_meta:
        raise InputError(
            f"{what}: a tensor of shape {tuple(tensor.shape)} is on the meta device and holds no numbers. "
            "Load the values first (to_empty and load_state_dict for a model)."
        )
    if tensor.is_nested:
        raise InputError(
            f"{what}: found a nested tensor; expected dense tensors. Pad it (to_padded_tensor) and mask the "
            "padding."
        )
    if tensor.is_quantized:
        raise InputError(
            f"{what}: found a quantised tensor ({tensor.dtype}); expected floating-point or integer values. "
            "Call .dequantize() first."
        )
    if tensor.layout != torch.strided:
        raise InputError(
            f"{what}: found a sparse tensor (layout {str(tensor.layout).removeprefix('torch.')}); expected "
            "dense ones. Call .to_dense() first, or read rows on demand in a data set."
        )


def require_plain_model(model: nn.Module) -> None:
    """Refuse a model with parameters or buffers that cannot be differentiated by or computed with.

    Raises:
        InputError: a meta, nested, sparse or quantised parameter or buffer, naming it.
        UnsupportedError: quantised modules, or complex parameters.
    """
    for name, module in model.named_modules():
        if ".quantized" in type(module).__module__ or ".quantizable" in type(module).__module__:
            raise UnsupportedError(
                f"module {name!r} ({type(module).__name__}) is quantised: its weights are packed integers, "
                "which have no derivatives. Use the model in floating point, as it was before quantisation."
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        require_plain(tensor, f"{name!r} of the model")
    for name, parameter in model.named_parameters():
        if parameter.is_complex() and parameter.requires_grad:
            raise UnsupportedError(
                f"parameter {name!r} is complex; expected real parameters. Keep its real and imaginary part "
                "as two real parameters (torch.view_as_complex in forward), or freeze it with "
                "requires_grad_(False)."
            )

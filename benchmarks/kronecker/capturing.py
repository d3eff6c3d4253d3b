"""Float64 activations and output gradients of the attributed layers, for the references; plain torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
import torch
from torch import Tensor, nn

DRAWS = 4  # sampled label sets per example, where the exact expectation is out of reach


@dataclass(frozen=True)
class Data:
    """A task at float64."""

    kind: str
    model: nn.Module
    modules: list[str]
    X: Tensor
    y: Tensor
    Xq: Tensor
    yq: Tensor
    damping: float


def load(path: Path) -> Data:
    z = np.load(path)
    kind = str(z["kind"])
    model = models.build(kind, json.loads(str(z["config"]))).eval()
    model.load_state_dict(
        {name.removeprefix("state."): torch.from_numpy(z[name]) for name in z.files if "state." in name}
    )
    tensors = [torch.from_numpy(z[name]) for name in ("X", "y", "Xq", "yq")]
    tensors = [x.double() if x.is_floating_point() else x for x in tensors]
    names = models.attributed(kind, model)
    return Data(kind, copy.deepcopy(model).double(), names, *tensors, float(z["damping"]))


class Pass:
    """One forward pass with its graph: `a[name]` is `(b, t, i + 1)` with a last column of ones (or `(b, t,
    i)` without bias), `deltas(v)[name]` the gradients `(b, t, o)` of `⟨v, outputs⟩` at the layers'
    outputs."""

    def __init__(self, data: Data, X: Tensor, bias: bool = True) -> None:
        self.a: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._modules = {name: data.model.get_submodule(name) for name in data.modules}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                self.a[name] = _positions(module, inputs[0].detach(), bias)
                self._outputs[name] = output

            return hook

        handles = [module.register_forward_hook(keep(name)) for name, module in self._modules.items()]
        self.outputs = data.model(X)
        for handle in handles:
            handle.remove()

    def deltas(self, vectors: Tensor) -> dict[str, Tensor]:
        gradients = torch.autograd.grad(
            self.outputs, list(self._outputs.values()), vectors, retain_graph=True
        )
        return {
            name: g.flatten(2).transpose(1, 2) if isinstance(self._modules[name], nn.Conv2d) else _with_t(g)
            for name, g in zip(self._outputs, gradients)
        }


def label_columns(outputs: Tensor, targets: Tensor, labels: str, generator: torch.Generator) -> list[Tensor]:
    """Vectors at the outputs whose outer products make up the curvature of the summed cross-entropy."""
    p = outputs.detach().softmax(-1)
    classes = p.shape[-1]
    if labels == "exact":
        eye = torch.eye(classes, dtype=p.dtype)
        return [p[..., c : c + 1].sqrt() * (p - eye[c]) for c in range(classes)]
    if labels == "pydvl":
        return [p * p.sqrt().sum(-1, keepdim=True) - p.sqrt()]
    if labels == "empirical":
        return [residual(outputs, targets)]
    drawn = torch.multinomial(p.reshape(-1, classes), DRAWS, replacement=True, generator=generator)
    return [residual(outputs, drawn[:, k].reshape(p.shape[:-1])) / DRAWS**0.5 for k in range(DRAWS)]


def residual(outputs: Tensor, targets: Tensor) -> Tensor:
    """`p − y`: the gradient of the summed cross-entropy in the logits."""
    p = outputs.detach().softmax(-1)
    return p - nn.functional.one_hot(targets, p.shape[-1]).to(p.dtype)


def _positions(module: nn.Module, x: Tensor, bias: bool) -> Tensor:
    if isinstance(module, nn.Conv2d):
        x = nn.functional.unfold(
            x, module.kernel_size, padding=module.padding, stride=module.stride
        ).transpose(1, 2)
    x = _with_t(x)
    return torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2) if bias else x


def _with_t(x: Tensor) -> Tensor:
    return x if x.ndim == 3 else x[:, None]

"""The training objective `J(θ) = (1/n) Σ ℓ(z_i, θ) + R(θ)` as functions of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.errors import InputError
from whence.losses import Loss, resolve_loss
from whence.memory import memory_budget
from whence.store import fingerprint
from whence.task.batch import Forward, Target, default_forward, default_target, output_tensor
from whence.task.examples import Examples
from whence.task.parameters import ParameterSet
from whence.task.regulariser import CustomRegulariser, Regulariser, WeightDecay

# Share of the memory budget that a data set may take to be kept as tensors.
_DATA_SHARE = 0.5

Measure = Callable[[Tensor, Any], Tensor]  # (outputs, targets) -> one number per example


class Objective:
    """Model, loss, parameters and data, seen as functions of the studied parameters.

    This is the one place that decides sums and means: `J` is the mean of the per-example losses over all `n`
    examples plus `R`, whatever the batches; every sum over a batch below is a plain sum, divided by `n` once.

    Attributes:
        parameters: the studied parameters `θ̂`.
        examples: the training examples.
        loss: per-example loss on outputs.
        regulariser: `R`.
        constants: all other parameters and the buffers, which stay as they are.
        n, p: numbers of examples and of parameters.

    Raises:
        InputError: an argument that cannot be used as given, or `torch.inference_mode()` is on.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        *,
        loss: Any,
        parameters: Any = None,
        weight_decay: float | Mapping[str, float] = 0.0,
        regulariser: Callable[[dict[str, Tensor]], Tensor] | None = None,
        forward: Forward | None = None,
        target: Target | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        dtype: torch.dtype | None = None,
        memory: str | int | float = "auto",
    ):
        if not isinstance(model, nn.Module):
            raise InputError(
                f"model is a {type(model).__name__}; expected a torch.nn.Module (for scikit-learn use "
                "from_sklearn)"
            )
        if torch.is_inference_mode_enabled():
            raise InputError(
                "torch.inference_mode() is on: nothing can be differentiated inside it. Leave it before "
                "using Whence; torch.no_grad() is fine."
            )
        self.model = model
        self.loss: Loss = resolve_loss(loss)
        self.parameters = ParameterSet(model, parameters, dtype)
        self.dtype, self.device = self.parameters.dtype, self.parameters.device
        self.memory = memory_budget(memory, self.device)
        self.memory_stated = memory != "auto"
        self._callable = _Forwarded(model, forward or default_forward)
        self._target = target or default_target
        self._collate = collate
        self.examples = self.read(train, role="train")
        if regulariser is not None and weight_decay:
            raise InputError(
                "both weight_decay and regulariser were given; put the whole of R into regulariser"
            )
        self.regulariser: Regulariser = (
            CustomRegulariser(self.parameters, regulariser)
            if regulariser is not None
            else WeightDecay(self.parameters, weight_decay)
        )
        self.constants = {
            name: tensor.detach().to(self.dtype) if tensor.is_floating_point() else tensor.detach()
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
            if name not in self.parameters.values
        }
        self._buffers = {name for name, _ in model.named_buffers()}
        self._places = _places(model)

    @property
    def n(self) -> int:
        return len(self.examples)

    @property
    def p(self) -> int:
        return self.parameters.size

    def read(self, data: Any, *, role: str) -> Examples:
        """Other examples (queries, candidates) under the same rules as the training data."""
        return Examples(
            data,
            role=role,
            collate=self._collate,
            dtype=self.dtype,
            device=self.device,
            keep_bytes=int(self.memory * _DATA_SHARE),
        )

    def like(self, model: nn.Module, train: Any) -> Objective:
        """The same objective for another model of the same architecture and another training set."""
        made = Objective(
            model,
            train,
            loss=self.loss,
            parameters=self.parameters.names,
            forward=self._callable.call,
            target=self._target,
            collate=self._collate,
            dtype=self.dtype,
            memory=self.memory,
            **self.regulariser.arguments(),
        )
        made.memory_stated = self.memory_stated
        return made

    def identity(self) -> dict[str, Any]:
        """Fingerprints of all that the per-example losses depend on, as JSON values: model, studied
        parameters, data, loss, and the functions that feed and read the model."""
        return {
            "model": fingerprint(self.model),
            "parameters": self.parameters.fingerprint(),
            "train": self.examples.fingerprint(),
            "loss": {**self.loss.settings(), "function": fingerprint(self.loss)},
            "forward": fingerprint((self._callable.call, self._target, self._collate)),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def outputs(self, values: Mapping[str, Tensor], batch: Any, *, everything: bool = False) -> Tensor:
        """Model outputs `(b, …)` with the studied parameters at `values`; frozen parameters and buffers as
        they are.

        With `everything`, `values` names all parameters and buffers, those of a retrained model.
        """
        named = values if everything else {**values, **self.constants}
        # Copies of buffers: a forward pass that counts its calls in one must not write into the model.
        own = {name: value.clone() if name in self._buffers else value for name, value in named.items()}
        placed = {
            f"model.{place}": value for name, value in own.items() for place in self._places.get(name, [name])
        }
        called = functional_call(self._callable, placed, (batch,), tie_weights=False)
        return output_tensor(called)

    def targets(self, batch: Any) -> Any:
        """What the loss compares the outputs with."""
        return self._target(batch)

    def losses(self, values: Mapping[str, Tensor], batch: Any) -> Float[Tensor, " b"]:
        """Per-example losses, never averaged."""
        return self.loss(self.outputs(values, batch), self.targets(batch))


class _Forwarded(nn.Module):
    """A user's `forward(model, batch)` as a module, so that `functional_call` can swap the parameters beneath
    it."""

    def __init__(self, model: nn.Module, forward: Forward):
        super().__init__()
        self.model = model
        self.call = forward

    def forward(self, batch: Any) -> Any:
        return self.call(self.model, batch)


def _places(model: nn.Module) -> dict[str, list[str]]:
    """For every parameter and buffer, by name, where modules hold it, each module counted once.

    torch's own tying of weights swaps a module with two names twice, and leaves the model without its
    parameters.
    """
    names: dict[int, str] = {}
    places: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        for local, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                place = f"{path}.{local}" if path else local
                places.setdefault(names.setdefault(id(tensor), place), []).append(place)
    return places


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Only attention kernels with second derivatives: the fused ones have no double backward or forward
    mode."""
    with sdpa_kernel(SDPBackend.MATH):
        yield

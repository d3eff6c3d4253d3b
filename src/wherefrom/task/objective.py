"""The training objective `J(θ) = (1/n) Σ ℓ(z_i, θ) + R(θ)` as functions of the parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from wherefrom.errors import InputError
from wherefrom.losses import Loss, resolve_loss
from wherefrom.memory import memory_budget
from wherefrom.store import fingerprint
from wherefrom.task.alone import alone, refuse_autocast
from wherefrom.task.batch import Forward, Target, default_forward, default_target, output_tensor
from wherefrom.task.data import Data
from wherefrom.task.data_form import DataForm
from wherefrom.task.examples import Examples
from wherefrom.task.held_model import Forwarded, hold_tensors, private_or_given
from wherefrom.task.parameters import ParameterSet
from wherefrom.task.pass_size import pass_size
from wherefrom.task.plain import require_plain_model
from wherefrom.task.regulariser import CustomRegulariser, Regulariser, WeightDecay
from wherefrom.task.unchanged import Unchanged

# Share of the memory budget that a data set may take to be kept as tensors.
_DATA_SHARE = 0.5
# Share of it that copies of frozen parameters and buffers may take.
_FROZEN_SHARE = 0.25

Measure = Callable[[Tensor, Any], Tensor]  # (outputs, targets) -> one number per example


class Objective:
    """Model, loss, parameters and data, seen as functions of the studied parameters.

    This is the one place that decides sums and means: `J` is the mean of the per-example losses over all `n`
    examples plus `R`, whatever the batches; every sum over a batch below is a plain sum, divided by `n` once.

    Attributes:
        forward, target: how a batch is fed to the model, and where its target is.
        parameters: the studied parameters `θ̂`.
        data: the training set as the user gave it.
        examples: the same, as batches that the model reads.
        loss: per-example loss on outputs.
        regulariser: `R`.
        constants: all other parameters and the buffers, which stay as they are.
        form: how the user writes data, where that is not what the model reads.
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
        form: DataForm | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise InputError(
                f"model is a {type(model).__name__}; expected a torch.nn.Module (for scikit-learn use "
                "from_sklearn)"
            )
        if torch.is_inference_mode_enabled():
            raise InputError(
                "torch.inference_mode() is on: nothing can be differentiated inside it. Leave it before "
                "using Wherefrom; torch.no_grad() is fine."
            )
        require_plain_model(model)
        self.loss: Loss = resolve_loss(loss)
        self.parameters = ParameterSet(model, parameters, dtype)
        self.dtype, self.device = self.parameters.dtype, self.parameters.device
        self.memory = memory_budget(memory, self.device)
        self.memory_stated = memory != "auto"
        self.forward, self.target = forward or default_forward, target or default_target
        self._collate = collate
        self.form = form
        with alone():
            self.examples = self.read(train, role="train")
        self.data = Data(train, len(self.examples))
        if regulariser is not None and weight_decay:
            raise InputError(
                "both weight_decay and regulariser were given; put the whole of R into regulariser"
            )
        self.regulariser: Regulariser = (
            CustomRegulariser(self.parameters, regulariser)
            if regulariser is not None
            else WeightDecay(self.parameters, weight_decay)
        )
        held = hold_tensors(model, self.parameters.values, self.dtype, int(self.memory * _FROZEN_SHARE))
        self.constants = held.constants
        self._buffers = {name for name, _ in model.named_buffers()}
        self._places = _places(model)
        self._borrowed = Unchanged()
        for what, tensor in [*held.borrowed, *(("train", leaf) for leaf in self.examples.borrowed)]:
            self._borrowed.watch_tensor(what, tensor)
        self._user_model, self._held = model, held
        self._chosen: Forwarded | None = None
        self._given = Unchanged()
        self._given.watch_data("train", train)

    @property
    def model(self) -> nn.Module:
        """The model that runs: a copy of the given one's modules, in the state they were given in, with the
        tensors that are held here; the given model itself where a copy is another function."""
        return self._callable.model

    @property
    def given_model(self) -> nn.Module:
        """The user's own model, to recognise its modules by; it may have changed since."""
        return self._user_model

    @property
    def _callable(self) -> Forwarded:
        if self._chosen is None:
            with alone():
                self._chosen = private_or_given(
                    self._user_model, self.forward, self._held, self._elsewhere, self._borrowed
                )
        return self._chosen

    def _elsewhere(self, called: Forwarded) -> Tensor:
        """Outputs on two examples at parameters near those that are held."""
        generator = torch.Generator().manual_seed(0)
        every = {**self.constants, **self.parameters.values}
        moved = {
            name: value
            + 0.01
            * (value.abs().mean() + 0.01)
            * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
            for name, value in every.items()
            if value.is_floating_point() and name not in self._buffers and value.numel()
        }
        return self._run(called, {**every, **moved}, self.examples.batch(self.examples.spread(2)))

    def check_unchanged(self, *, data: bool = False) -> None:
        """Refuse to go on with memory that is the user's and has changed since it was given.

        Args:
            data: also where the training set as it was given is read again, not only what is held.

        Raises:
            InputError: what changed.
        """
        with alone():
            self._borrowed.check()
            if data:
                self._given.check()

    @property
    def n(self) -> int:
        return len(self.examples)

    @property
    def p(self) -> int:
        return self.parameters.size

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """The user's labels in the order of the class numbers, where these are two things."""
        return None if self.form is None else self.form.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The same as text."""
        return None if self.classes is None else tuple(map(str, self.classes))

    def given(self, data: Any, role: str) -> Any:
        """Other examples in the form in which the user gave the training data."""
        return data if self.form is None else self.form.columns(data, role)

    def read(self, data: Any, *, role: str) -> Examples:
        """Other examples (queries, candidates) under the same rules as the training data."""
        return Examples(
            data if self.form is None else self.form.read(data, role),
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
            forward=self.forward,
            target=self.target,
            collate=self._collate,
            dtype=self.dtype,
            memory=self.memory,
            form=self.form,
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
            "forward": fingerprint((self.forward, self.target, self._collate)),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def outputs(self, values: Mapping[str, Tensor], batch: Any, *, everything: bool = False) -> Tensor:
        """Model outputs `(b, …)` with the studied parameters at `values`; frozen parameters and buffers as
        they are.

        With `everything`, `values` names all parameters and buffers, those of a retrained model.
        """
        refuse_autocast()
        named = values if everything else {**values, **self.constants}
        with alone():
            return self._run(self._callable, named, batch)

    def call(self, use: Callable[[nn.Module], Any]) -> Any:
        """What `use(model)` returns with the parameters and buffers that are held: another way to ask the
        model than `forward`."""
        named = {**self.parameters.values, **self.constants}
        with alone():
            asked = Forwarded(self.model, lambda model, _: use(model))
            return functional_call(asked, self._placed(named), (None,), tie_weights=False)

    def _run(self, called: Forwarded, named: Mapping[str, Tensor], batch: Any) -> Tensor:
        return output_tensor(functional_call(called, self._placed(named), (batch,), tie_weights=False))

    def _placed(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by every place that holds them."""
        # Copies of buffers: a forward pass that counts its calls in one must not write into the model.
        own = {name: value.clone() if name in self._buffers else value for name, value in named.items()}
        return {
            f"model.{place}": value for name, value in own.items() for place in self._places.get(name, [name])
        }

    def targets(self, batch: Any) -> Any:
        """What the loss compares the outputs with."""
        return self.target(batch)

    def losses(self, values: Mapping[str, Tensor], batch: Any) -> Float[Tensor, " b"]:
        """Per-example losses, never averaged."""
        return self.loss(self.outputs(values, batch), self.targets(batch))

    @functools.cached_property
    def pass_size(self) -> int:
        """Examples that go through the model together where only its outputs are wanted: as many as fit the
        memory budget."""
        return pass_size(self)

    def passes(
        self, examples: Examples, values: Mapping[str, Tensor] | None = None, *, everything: bool = False
    ) -> Iterator[tuple[slice, Tensor, Any]]:
        """Outputs and targets of all examples, with nothing to differentiate: for each batch the slice it
        covers, its outputs, its targets.

        Args:
            examples: training examples or others.
            values, everything: as for `outputs`; the given model's when `None`.
        """
        named = self.parameters.values if values is None else values
        for where, batch in examples.batches(self.pass_size):
            with torch.no_grad():
                outputs = self.outputs(named, batch, everything=everything)
            yield where, outputs, self.targets(batch)

    def measured(
        self, examples: Examples, measure: Measure, values: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, " b"]:
        """`measure(outputs, targets)` of all examples, with nothing to differentiate; arguments as for
        `passes`."""
        with torch.no_grad():
            parts = [measure(outputs, targets) for _, outputs, targets in self.passes(examples, values)]
        return torch.cat(parts)


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

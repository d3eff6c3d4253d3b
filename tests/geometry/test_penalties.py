"""Each penalty against explicit gradients, its derivative against finite differences, and every refusal."""

from __future__ import annotations

from inspect import unwrap

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.func import functional_call, grad, jacrev, vmap

from wherefrom.errors import BatchDependenceError, InputError, NonFiniteError, UnsupportedError
from wherefrom.studies.geometry import (
    input_gradient_penalty,
    jacobian_penalty,
    modified_loss,
    parameter_gradient_penalty,
)

CROSS_ENTROPY = nn.functional.cross_entropy


def problem(*, norm: bool = False) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(5, dtype=torch.float64) if norm else nn.Identity()
    model = nn.Sequential(
        nn.Linear(4, 5, dtype=torch.float64), middle, nn.Tanh(), nn.Linear(5, 3, dtype=torch.float64)
    )
    return model, torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


def value_and_derivative(model: nn.Module, penalty: Tensor) -> tuple[float, Tensor]:
    gradients = torch.autograd.grad(penalty, list(model.parameters()), materialize_grads=True)
    return float(penalty.detach()), torch.cat([gradient.flatten() for gradient in gradients])


def difference_quotient(model: nn.Module, penalty, step: float = 1e-5) -> Tensor:
    found = []
    for parameter in model.parameters():
        for k in range(parameter.numel()):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[k] += sign * step
                ends.append(float(penalty().detach()))
                with torch.no_grad():
                    parameter.view(-1)[k] -= sign * step
            found.append((ends[0] - ends[1]) / (2 * step))
    return torch.tensor(found, dtype=torch.float64)


def explicit_input(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    gradients = vmap(grad(lambda one, label: CROSS_ENTROPY(model(one[None]), label[None])))(x, y)
    return gradients.square().sum() / len(x)


def explicit_parameter(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = grad(lambda at: CROSS_ENTROPY(functional_call(model, at, (x,)), y))(values)
    return torch.stack([gradient.square().sum() for gradient in found.values()]).sum()


def explicit_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    return vmap(jacrev(lambda one: model(one[None])[0]))(x).square().sum() / len(x)


def test_values_and_derivatives():
    model, x, y = problem()
    cases = {
        "input": (lambda: input_gradient_penalty(model, "cross_entropy", x, y), explicit_input(model, x, y)),
        "parameter": (
            lambda: parameter_gradient_penalty(model, "cross_entropy", x, y),
            explicit_parameter(model, x, y),
        ),
        "jacobian": (lambda: jacobian_penalty(model, x, probes=None), explicit_jacobian(model, x)),
    }
    for name, (penalty, expected) in cases.items():
        value, derivative = value_and_derivative(model, penalty())
        assert value == pytest.approx(float(expected.detach()), rel=1e-10), name
        torch.testing.assert_close(derivative, difference_quotient(model, penalty), rtol=1e-5, atol=1e-7)


def test_probes_have_the_exact_mean():
    model, x, _ = problem()
    exact = float(jacobian_penalty(model, x, probes=None).detach())
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor(
        [float(jacobian_penalty(model, x, generator=generator).detach()) for _ in range(1500)]
    )
    error = float(draws.std()) / len(draws) ** 0.5
    assert abs(float(draws.mean()) - exact) < 4 * error < 0.2 * exact
    # More probes in one call: the same mean, less spread.
    wide = torch.tensor(
        [float(jacobian_penalty(model, x, 16, generator=generator).detach()) for _ in range(100)]
    )
    assert float(wide.std()) < 0.5 * float(draws.std())
    assert float(wide.mean()) == pytest.approx(exact, rel=0.1)


def test_one_output_needs_one_probe():
    model = nn.Linear(4, 1, dtype=torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64)
    assert float(jacobian_penalty(model, x).detach()) == pytest.approx(
        float(model.weight.detach().square().sum()), rel=1e-12
    )


def test_an_ordinary_loop_lowers_each_penalty():
    penalties = {
        "input": lambda model, x, y: input_gradient_penalty(model, nn.CrossEntropyLoss(), x, y),
        "parameter": lambda model, x, y: 3 * parameter_gradient_penalty(model, nn.CrossEntropyLoss(), x, y),
        "jacobian": lambda model, x, y: jacobian_penalty(
            model, x, generator=torch.Generator().manual_seed(0)
        ),
    }
    for name, penalty in penalties.items():
        ends = []
        for weight in (0.0, 0.3):
            model, x, y = problem()
            optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(60):
                optimiser.zero_grad()
                (CROSS_ENTROPY(model(x), y) + weight * penalty(model, x, y)).backward()
                optimiser.step()
            ends.append(float(penalty(model, x, y).detach()))
        assert ends[1] < 0.95 * ends[0], name


def test_inputs_keep_the_graph_they_came_with():
    model, x, y = problem()
    encoder = nn.Linear(4, 4, dtype=torch.float64)
    input_gradient_penalty(model, "cross_entropy", encoder(x), y).backward()
    assert encoder.weight.grad is not None and bool(encoder.weight.grad.any())


def test_plain_inputs_gradients_and_buffers_stay_as_they_are():
    model, x, y = problem(norm=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameter_gradient_penalty(model, "cross_entropy", x, y)
    model.eval()
    input_gradient_penalty(model, "cross_entropy", x, y)
    jacobian_penalty(model, x)
    assert not x.requires_grad and x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 12)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inner(x).unsqueeze(1).chunk(3, dim=-1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1).mean(1))


def test_attention_is_differentiated_twice():
    torch.manual_seed(0)
    model, x, y = Attention(), torch.randn(3, 5, 4), torch.tensor([0, 1, 0])
    input_gradient_penalty(model, "cross_entropy", x, y).backward()
    assert bool(model.inner.weight.grad.any())


class FusedAttention(Attention):
    def forward(self, x: Tensor) -> Tensor:
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.FLASH_ATTENTION):
            return super().forward(x)


class _Once(Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient


class Once(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return _Once.apply(self.inner(x))


@pytest.mark.parametrize("model,shape", [(FusedAttention(), (3, 5, 4)), (Once(), (3, 4))])
def test_no_second_derivative_is_refused(model, shape):
    with pytest.raises(UnsupportedError, match="no second"):
        input_gradient_penalty(model, "cross_entropy", torch.randn(shape), torch.tensor([0, 1, 0]))


def test_a_cut_graph_is_refused():
    class Cut(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    model = Cut(4, 2)
    with pytest.raises(InputError, match="cut off"):
        jacobian_penalty(model, torch.randn(3, 4))


def test_refusals():
    model, x, y = problem()
    with pytest.raises(InputError, match="no gradient; expected floating-point"):
        input_gradient_penalty(nn.Embedding(4, 2), "cross_entropy", torch.tensor([[1], [2]]), y)
    with pytest.raises(InputError, match="at least one example"):
        jacobian_penalty(model, x[:0])
    for probes in (0, True):
        with pytest.raises(InputError, match="probes="):
            jacobian_penalty(model, x, probes=probes)
    with pytest.raises(NonFiniteError, match="x holds NaN"):
        input_gradient_penalty(model, "cross_entropy", x / 0, y)
    with torch.no_grad(), pytest.raises(InputError, match="switched off"):
        parameter_gradient_penalty(model, "cross_entropy", x, y)
    with pytest.raises(InputError, match=r"labels|class|targets"):
        input_gradient_penalty(model, "cross_entropy", x, y + 7)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter"):
        input_gradient_penalty(model, "cross_entropy", x, y)
    with pytest.raises(BatchDependenceError, match="is batch normalisation"):
        input_gradient_penalty(problem(norm=True)[0], "cross_entropy", x, y)


def test_an_infinite_penalty_is_refused():
    model, x, _ = problem()
    with torch.no_grad():
        model[3].weight.fill_(1e200)
    with pytest.raises(NonFiniteError, match="jacobian_penalty"):
        jacobian_penalty(model, x)


def test_an_output_without_examples_is_refused():
    class Summed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sum()

    with pytest.raises(InputError, match="first dimension"):
        jacobian_penalty(Summed(4, 2), torch.randn(3, 4))


def test_inputs_in_other_forms_and_empty_batches_are_refused():
    model, x, y = problem()
    for wrong in ((x,), {"input": x}):
        with pytest.raises(InputError, match="expected a tensor"):
            unwrap(input_gradient_penalty)(model, "cross_entropy", wrong, y)  # past the checks of shapes
    with pytest.raises(InputError, match="a tuple or a dict"):
        parameter_gradient_penalty(model, "cross_entropy", [x], y)
    with pytest.raises(InputError, match="at least one example"):
        parameter_gradient_penalty(model, "cross_entropy", x[:0], y[:0])


class _Constant(Function):
    """Its slope is a constant to torch, so a gradient through it has no derivative of its own, in silence."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = x.cos()
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.slope


class Wrapped(nn.Module):
    """A dense layer, a function, a dense layer."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 5), nn.Linear(5, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def weight_normalised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


PENALTIES = {
    "input": lambda model, x, y: input_gradient_penalty(model, "cross_entropy", x, y),
    "parameter": lambda model, x, y: parameter_gradient_penalty(model, "cross_entropy", x, y),
    "modified": lambda model, x, y: modified_loss(model, "cross_entropy", x, y, 0.1),
    "jacobian": lambda model, x, y: jacobian_penalty(model, x),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_a_wrong_second_derivative_is_refused_by_name(penalty, dtype):
    _, x, y = problem()
    for make, words in (
        (lambda: Wrapped(_Constant.apply), "'_Constant'"),
        (lambda: Wrapped(lambda z: z + (z.clamp(-0.1, 0.1) - z).detach()), "straight-through"),
    ):
        torch.manual_seed(0)
        model = make().to(dtype)
        for _ in range(2):  # what was refused is refused again
            with pytest.raises(UnsupportedError, match=words):
                penalty(model, x.to(dtype), y)


def test_weight_normalisation_is_refused_where_its_second_derivative_is_wrong():
    _, x, y = problem()
    torch.manual_seed(0)
    model = weight_normalised().double()
    with pytest.raises(UnsupportedError, match=r"weight normalisation.*fold"):
        parameter_gradient_penalty(model, "cross_entropy", x, y)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("function", [nn.ReLU(), nn.Dropout(0.5), nn.SiLU(), nn.LayerNorm(5), torch.abs])
def test_right_ones_are_accepted_and_random_numbers_are_left_alone(function, dtype, training):
    _, x, y = problem()
    torch.manual_seed(0)
    model = Wrapped(function).to(dtype).train(training)
    for penalty in PENALTIES.values():
        torch.manual_seed(5)
        first = penalty(model, x.to(dtype), y)
        after = torch.rand(())
        torch.manual_seed(5)
        assert torch.equal(penalty(model, x.to(dtype), y), first)
        assert torch.equal(torch.rand(()), after)


def test_a_penalty_is_checked_once():
    calls = []

    def count(z: Tensor) -> Tensor:
        calls.append(z.dtype)
        return z.tanh()

    _, x, y = problem()
    model = Wrapped(count)
    for step in range(3):
        calls.clear()
        input_gradient_penalty(model, lambda f, t: CROSS_ENTROPY(f, t, reduction="none"), x.float(), y)
        assert (len(calls) == 1) == (step > 0)
    assert torch.float64 not in calls

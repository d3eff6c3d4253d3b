"""Strides are no part of the data: every solver gives the scores of a contiguous copy."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wherefrom
from tests.problems import labels, normal
from wherefrom.errors import UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
N, LAMBDA = 7, 0.5
PACKAGE = Path(wherefrom.__file__).parent


def images() -> nn.Module:
    """Max-pooling and group normalisation have no batched backward pass on channels-last images."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 2, 2, groups=2),
        nn.Flatten(),
        nn.Linear(2, 3),
    )


def maps() -> nn.Module:
    """An output for every pixel."""
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1))


def tokens() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 5))


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 2, 2), nn.InstanceNorm3d(2, affine=True), nn.Flatten(), nn.Linear(16, 3)
    )


def signals() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 2, 2), nn.Tanh(), nn.ConvTranspose1d(2, 2, 2), nn.Flatten(), nn.Linear(10, 3)
    )


def vectors() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Tanh(), nn.Linear(3, 3))


def last_layer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


CASES = {
    "images": (images, (3, 4, 4), ()),
    "maps": (maps, (3, 2, 4), (2, 4)),
    "tokens": (tokens, (3, 4), (3,)),
    "volumes": (volumes, (2, 3, 3, 3), ()),
    "signals": (signals, (3, 5), ()),
    "vectors": (vectors, (3, 4), ()),
    "last layer": (last_layer, (3, 4), ()),
}


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x


def reversed_order(x: Tensor) -> Tensor:
    order = list(reversed(range(x.ndim)))
    return x.permute(order).contiguous().permute(order)


def strided(x: Tensor) -> Tensor:
    wide = x.new_zeros([2 * size for size in x.shape])
    every = wide[tuple(slice(None, None, 2) for _ in x.shape)]
    return every.copy_(x)


def expanded(x: Tensor) -> Tensor:
    return x[:, :1].expand(x.shape) if x.ndim > 1 else x


LAYOUTS = {function.__name__: function for function in (channels_last, reversed_order, strided, expanded)}
SOLVERS = {
    "primal": lambda: wherefrom.Exact(space="primal"),
    "dual": lambda: wherefrom.Exact(space="dual"),
    "lissa": lambda: wherefrom.LiSSA(depth=3, repeats=1, batch_size=5),
    **{name: lambda name=name: name for name in (
        "cg", "ekfac", "kfac", "diagonal", "identity", "block_diagonal", "nystrom", "arnoldi", "datainf",
    )},
}  # fmt: skip


def fit(
    case: str, x: Tensor, y: Tensor, solver, *, channels_last: bool = False, **options
) -> wherefrom.Influence:
    torch.manual_seed(0)
    model = CASES[case][0]().double().eval()
    if channels_last:
        model = model.to(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)
    options = {"loss": "cross_entropy", "damping": LAMBDA, "progress": False, "seed": 0, **options}
    return wherefrom.Influence(model, (x, y), solver=solver, **options).fit()


def scores(influence: wherefrom.Influence, x: Tensor, y: Tensor) -> Tensor:
    return influence.scores((x[:2], y[:2])).values


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8 * float(expected.abs().max()))


@functools.lru_cache
def contiguous_scores(case: str, solver: str, repeated: bool) -> Tensor:
    """With the numbers of every layout; those of `expanded` repeat one channel."""
    _, shape, target = CASES[case]
    x, y = normal(N, *shape), labels(N, *target)
    x = expanded(x).contiguous() if repeated else x
    return scores(fit(case, x, y, solver), x, y)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_inputs_of_any_strides_give_the_same_scores(case, layout):
    _, shape, target = CASES[case]
    x, y = LAYOUTS[layout](normal(N, *shape)), labels(N, *target)
    for solver in ("auto", "ekfac"):
        expected = contiguous_scores(case, solver, layout == "expanded")
        close(scores(fit(case, x, LAYOUTS[layout](y) if layout != "expanded" else y, solver), x, y), expected)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_takes_channels_last_images_and_models(solver):
    x, y = normal(N, 3, 4, 4), labels(N)
    expected = scores(fit("images", x, y, SOLVERS[solver]()), x, y)
    for model_too in (False, True):
        made = fit("images", channels_last(x), y, SOLVERS[solver](), channels_last=model_too)
        close(scores(made, channels_last(x), y), expected)


@pytest.mark.parametrize("mode", ["reverse_over_reverse", "forward_over_reverse"])
def test_the_hessian_of_channels_last_images_is_right(mode):
    x, y = normal(N, 3, 4, 4), labels(N)
    options = {"curvature": "hessian", "damping": 20.0, "hvp_mode": mode, "solver": "exact"}
    expected = scores(fit("images", x, y, **options), x, y)
    try:
        made = fit("images", channels_last(x), y, channels_last=True, **options)
    except UnsupportedError as refused:  # torch 2.13 has no forward mode of some layers at these strides
        assert mode == "forward_over_reverse" and "hvp_mode='reverse_over_reverse'" in str(refused)
        return
    close(scores(made, channels_last(x), y), expected)


def test_what_is_built_on_scores_takes_channels_last_images():
    x, y = normal(N, 3, 2, 4), labels(N, 2, 4)
    plain, other = fit("maps", x, y, "exact"), fit("maps", channels_last(x), y, "exact")
    z = channels_last(x)
    close(other.input_influence((z[:2], y[:2])).values, plain.input_influence((x[:2], y[:2])).values)
    close(other.self_scores().values, plain.self_scores().values)
    close(
        other.geometric_complexity().value * torch.ones(1), plain.geometric_complexity().value * torch.ones(1)
    )
    close(other.parameter_influence([0, 3]), plain.parameter_influence([0, 3]))
    x, y = normal(N, 3, 4, 4), labels(N)
    plain, other = (
        fit("images", x, y, "exact"),
        fit("images", channels_last(x), y, "exact", channels_last=True),
    )
    assert other.gradient_norms().parameters.tolist() == pytest.approx(
        plain.gradient_norms().parameters.tolist()
    )
    for found, expected in zip(
        other.gradient_bounds(layers="cut").layers, plain.gradient_bounds(layers="cut").layers
    ):
        torch.testing.assert_close(found.term, expected.term)
    close(
        other.leave_one_out((channels_last(x)[:2], y[:2])).values, plain.leave_one_out((x[:2], y[:2])).values
    )


def test_penalties_take_channels_last_images():
    torch.manual_seed(0)
    x, y = normal(N, 3, 4, 4), labels(N)
    found = []
    for z, form in ((x, torch.contiguous_format), (channels_last(x), torch.channels_last)):
        torch.manual_seed(0)
        model = images().double().eval().to(memory_format=form)
        penalties = [
            wherefrom.studies.geometry.input_gradient_penalty(model, "cross_entropy", z, y),
            wherefrom.studies.geometry.parameter_gradient_penalty(model, "cross_entropy", z, y),
            wherefrom.studies.geometry.jacobian_penalty(model, z, None),
        ]
        sum(penalties).backward()
        slopes = torch.cat([value.grad.reshape(-1) for value in model.parameters()])
        found.append(torch.cat([torch.stack(penalties).detach(), slopes]))
    close(found[1], found[0])


def test_no_tensor_is_viewed_in_another_shape():
    """`view` fails on strides that the author did not think of; `reshape` and `unflatten` do not. Views as
    another dtype, and of buffers made here, remain."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text()
        for node in ast.walk(ast.parse(source)):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in ("view", "view_as"):
                text = ast.get_source_segment(source, node) or ""
                bytes_or_buffer = any(
                    word in text for word in ("uint8", "float64)", '"<u', "buffer", "bits.view")
                )
                own = text.startswith("weighted.view")
                if not (bytes_or_buffer or own):
                    found.append(f"{file.name}:{node.lineno}: {text}")
    assert found == []

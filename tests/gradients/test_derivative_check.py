"""Right derivatives are accepted and right; wrong and missing ones refused by name, for what needs them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import wherefrom
from tests.gradients.custom_functions import (
    InNumpy,
    OnceDifferentiable,
    Reversal,
    SavedIntermediate,
    Softsign,
    StraightThrough,
    WrongBackward,
    net,
)
from tests.problems import labels, normal
from wherefrom.curvature import choose_curvature
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import ExampleGradients, GradientEngine
from wherefrom.losses import CustomLoss
from wherefrom.studies.geometry import geometric_complexity, gradient_bounds, gradient_norms
from wherefrom.task import Objective

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
N = 9


def seeded(make, dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return make().eval().to(dtype)


def objective(model: nn.Module, loss="cross_entropy", **options) -> Objective:
    dtype = next(model.parameters()).dtype
    return Objective(model, (normal(N, 4).to(dtype), labels(N)), loss=loss, **options)


def checked(made: Objective) -> GradientEngine:
    engine = GradientEngine(made)
    engine.check_derivatives()
    return engine


def plain_losses(made: Objective, values: dict[str, Tensor]) -> Tensor:
    x, y = normal(N, 4).to(made.dtype), labels(N)
    return F.cross_entropy(functional_call(made.model, values, (x,)), y, reduction="none")


def gradient(made: Objective, theta: Tensor) -> Tensor:
    """Of the mean loss, by one plain backward pass."""
    leaf = theta.clone().requires_grad_()
    loss = plain_losses(made, made.parameters.unflatten(leaf)).mean()
    return torch.autograd.grad(loss, leaf, materialize_grads=True)[0]


def dense_ggn(made: Objective) -> Tensor:
    """`(1/n) Σ J_iᵀ (diag p − ppᵀ) J_i`, one backward pass for every row of a Jacobian."""
    leaf = made.parameters.flat().requires_grad_()
    x = normal(N, 4).to(made.dtype)
    outputs = functional_call(made.model, made.parameters.unflatten(leaf), (x,))
    rows = [torch.autograd.grad(f, leaf, retain_graph=True)[0] for f in outputs.flatten()]
    jacobian = torch.stack(rows).reshape(N, 3, -1)
    p = outputs.detach().softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return torch.einsum("nap,nab,nbq->pq", jacobian, inner, jacobian) / N


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner, self.head = kind(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x.reshape(len(x), 2, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.MultiheadAttention(2, 1, batch_first=True), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = x.reshape(len(x), 2, 2)
        return self.head(self.inner(z, z, z)[0].sum(1))


class Float32Inside(nn.Module):
    """As the norms of language models are computed."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        wide = h.float()
        return self.last((wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(h.dtype))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = 1.0 * F.relu_(self.first(x).mul_(2.0).add_(0.5))
        h[:, 0] = 0.3 * h[:, 1]
        return self.last(h)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool = False):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(lambda z: torch.tanh(self.first(z)), x, use_reentrant=self.reentrant))


def dead_relu() -> nn.Module:
    """Kinks right at the parameters: no bias, and an input of zeros."""
    model = net(torch.relu)
    nn.init.zeros_(model[0].bias)
    return model


def convolutional(middle: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4)),
        nn.Conv1d(1, 2, 1),
        middle,
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(2, 3),
    )


def vector_norm(kind) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), kind, nn.Tanh(), nn.Linear(4, 3))


ACTIVATIONS = [
    nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Hardtanh(), nn.LeakyReLU(), nn.PReLU(), nn.RReLU(),
    nn.ELU(), nn.Softplus(), nn.Softshrink(), nn.Hardshrink(), nn.Mish(), nn.Softmax(1),
    nn.Threshold(0.1, 0.0),
]  # fmt: skip
RIGHT = {
    **{type(kind).__name__: lambda kind=kind: net(kind) for kind in ACTIVATIONS},
    "GLU": lambda: nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 3)),
    "abs": lambda: net(torch.abs),
    "largest": lambda: net(lambda z: z.topk(4, 1).values),
    "MaxPool1d": lambda: convolutional(nn.Sequential(nn.ReLU(), nn.MaxPool1d(2))),
    "Upsample": lambda: convolutional(nn.Sequential(nn.Upsample(scale_factor=2, mode="linear"), nn.Tanh())),
    "LayerNorm": lambda: vector_norm(nn.LayerNorm(4)),
    "BatchNorm1d": lambda: vector_norm(nn.BatchNorm1d(4)),
    "GroupNorm": lambda: vector_norm(nn.GroupNorm(1, 4)),
    "Dropout": lambda: vector_norm(nn.Dropout(0.5)),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "attention": Attention,
    "float32 inside": Float32Inside,
    "in place": InPlace,
    "spectral_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)
    ),
    "a right Function": lambda: net(Softsign.apply),
    "kinks at zero": dead_relu,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_derivatives_are_accepted_and_right(name):
    made = objective(seeded(RIGHT[name]))
    engine = checked(made)
    theta = made.parameters.flat()
    v = normal(made.p, seed=3)
    tolerance = 1e-3 if name == "float32 inside" else 1e-5
    step = 1e-3 if name == "float32 inside" else 1e-6
    hessian = choose_curvature(engine, "hessian").data.matvec(v)
    expected = (gradient(made, theta + step * v) - gradient(made, theta - step * v)) / (2 * step)
    torch.testing.assert_close(
        hessian, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())
    )
    ggn = choose_curvature(engine, "ggn").data.matvec(v)
    torch.testing.assert_close(ggn, dense_ggn(made) @ v, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "kind", [nn.ReLU(), nn.GELU(), nn.MaxPool1d(2)], ids=lambda kind: type(kind).__name__
)
def test_a_float32_model_that_refuses_float64_is_accepted(kind):
    class Only32(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = (
                nn.Linear(4, 60),
                nn.Linear(30 if isinstance(kind, nn.MaxPool1d) else 60, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.last(kind(F.linear(x, self.first.weight, torch.zeros(60))))

    engine = checked(objective(seeded(Only32, torch.float32), parameters=["first.weight", "last.*"]))
    assert not engine.probe.exact
    assert choose_curvature(engine, "hessian").name == "hessian"


# What has first derivatives only, and how the products with its Jacobian are taken.
FIRST_ONLY = {
    "hardsigmoid": (lambda: net(F.hardsigmoid), "forward mode"),
    "saved intermediate": (lambda: net(SavedIntermediate.apply), "transposed"),
    "once differentiable": (lambda: net(OnceDifferentiable.apply), "explicit rows"),
    "numpy": (lambda: net(InNumpy.apply), "explicit rows"),
    "checkpoint": (Checkpointed, "transposed"),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)
        ),
        "transposed",
    ),
}


@pytest.mark.parametrize("name", FIRST_ONLY)
def test_without_a_second_derivative_the_ggn_is_right_and_the_hessian_refused(name):
    make, way = FIRST_ONLY[name]
    made = objective(seeded(make))
    engine = checked(made)
    assert engine.forward_products == way
    operator = choose_curvature(engine, "ggn").data
    vectors = normal(made.p, 3, seed=4)
    dense = dense_ggn(made)
    torch.testing.assert_close(operator.matmat(vectors), dense @ vectors, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(operator.to_dense(), dense, rtol=1e-9, atol=1e-12)
    with pytest.raises(UnsupportedError, match="curvature='ggn'"):
        choose_curvature(engine, "hessian")


@pytest.mark.parametrize(
    "solver", ["exact", "cg", "ekfac", "diagonal", "identity", "block_diagonal", "nystrom"]
)
def test_every_solver_runs_on_first_derivatives_alone(solver):
    train = (normal(N, 4), labels(N))
    arguments = {"loss": "cross_entropy", "damping": 0.5, "solver": solver, "progress": False}
    scores = [
        wherefrom.Influence(seeded(lambda f=f: net(f)), train, **arguments).fit().scores(train).values
        for f in (OnceDifferentiable.apply, F.softsign)
    ]
    torch.testing.assert_close(*scores, rtol=1e-6, atol=1e-9)


def test_the_culprits_of_a_hessian_are_named():
    for make, words in (
        (lambda: net(SavedIntermediate.apply), "'SavedIntermediate'"),
        (FIRST_ONLY["weight norm"][0], "Module '0.*weight normalisation.*fold"),
    ):
        engine = checked(objective(seeded(make)))
        with pytest.raises(UnsupportedError, match=words):
            choose_curvature(engine, "hessian")


def test_checkpoints_are_named():
    """They compute layers again with the model's own parameters, not those that are differentiated by."""
    with pytest.raises(UnsupportedError, match="checkpointing"):
        choose_curvature(checked(objective(seeded(Checkpointed))), "hessian")
    with pytest.warns(UserWarning), pytest.raises(UnsupportedError, match=r"'first.weight'.*no gradient"):
        checked(objective(seeded(lambda: Checkpointed(True))))
    model = seeded(Checkpointed, torch.float32)
    train = (normal(N, 4).float(), labels(N))
    with pytest.raises(UnsupportedError, match="gradient checkpointing"):
        checked(Objective(model, train, loss="cross_entropy", dtype=torch.float64))
    assert checked(objective(model)).forward_products == "transposed"


def test_wrappers_for_several_devices_are_named():
    model = nn.DataParallel(seeded(lambda: net(torch.tanh)))
    with pytest.raises(InputError, match=r"Pass model\.module"):
        wherefrom.Influence(model, (normal(N, 4), labels(N)), loss="cross_entropy").fit()


def test_the_order_of_differentiation_that_works_is_chosen_and_named():
    class ForwardOnly(nn.Module):
        """Reverse mode loses a curvature that forward mode keeps."""

        def forward(self, x: Tensor) -> Tensor:
            return _Forward.apply(x)

    class _Forward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x / (1 + x.abs()), slope_of(x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_non_differentiable(output[1])
            ctx.save_for_backward(output[1])
            ctx.save_for_forward(output[1])

        @staticmethod
        def backward(ctx, g, _):
            return g * ctx.saved_tensors[0]

        @staticmethod
        def jvp(ctx, t):
            return t * ctx.saved_tensors[0], None

    def slope_of(x: Tensor) -> Tensor:
        return 1 / (1 + x.abs()) ** 2

    model = seeded(lambda: net(lambda x: _Forward.apply(x)[0]))
    engine = checked(objective(model))
    for mode in ("auto", "reverse_over_reverse", "forward_over_reverse"):
        with pytest.raises(UnsupportedError, match="second derivative is wrong"):
            choose_curvature(engine, "hessian", hvp_mode=mode)


class NoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.tanh(self.body(x))
        return self.head(h)


class Detached(NoGrad):
    """A part of what a parameter does is cut off, a part is not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x))) * (1 + self.body.weight.detach().square().mean())


class Item(NoGrad):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x))) / self.temperature.item()


class Hooked(NoGrad):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        if h.requires_grad:
            h.register_hook(lambda g: 0.1 * g)
        return self.head(h)


class HalfInside(NoGrad):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)).bfloat16().to(x.dtype))


def fake_quantised(x: Tensor) -> Tensor:
    return x + ((8 * x).round() / 8 - x).detach()


WRONG = {
    "no_grad": (NoGrad, "'body.weight', 'body.bias', but torch gives them no gradient.*parameters="),
    "detach": (Detached, "'body.weight' is not their slope.*detach"),
    "item": (Item, "'temperature', but torch gives them no gradient"),
    "hook": (Hooked, "'body.weight', 'body.bias' is not their slope.*hook"),
    "bfloat16 inside": (HalfInside, "half precision"),
    "quantised": (lambda: net(fake_quantised), "straight-through"),
    "binary": (lambda: net(StraightThrough.apply), "straight-through"),
    "clipped": (lambda: net(lambda x: x + (x.clamp(-0.2, 0.2) - x).detach()), "straight-through"),
    "reversal": (lambda: net(Reversal.apply), "'Reversal': is its backward right"),
    "wrong backward": (lambda: net(WrongBackward.apply), "'WrongBackward': is its backward right"),
}


def a_curvature(made: Objective) -> object:
    return choose_curvature(GradientEngine(made), "empirical_fisher")


def a_gradient(made: Objective) -> object:
    return ExampleGradients(GradientEngine(made), made.examples, made.loss).rows(slice(0, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", WRONG)
def test_gradients_that_are_no_slopes_are_refused_by_name(name, dtype):
    make, words = WRONG[name]
    with pytest.raises(UnsupportedError, match=words):
        checked(objective(seeded(make, dtype)))


@pytest.mark.parametrize(
    "use", [geometric_complexity, gradient_norms, gradient_bounds, a_curvature, a_gradient]
)
def test_whatever_makes_an_engine_of_its_own_checks(use):
    make, words = WRONG["wrong backward"]
    with pytest.raises(UnsupportedError, match=words):
        use(objective(seeded(make)))


def test_a_backward_pass_that_fails_without_a_word_is_named_by_its_kind():
    class Silent(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.tanh(x)

        @staticmethod
        def backward(ctx, grad):
            raise NotImplementedError

    with pytest.raises(UnsupportedError, match="cannot be differentiated: NotImplementedError"):
        checked(objective(seeded(lambda: net(Silent.apply))))


@pytest.mark.parametrize("solver", ["identity", "ekfac", "exact"])
def test_a_frozen_part_may_be_cut_off(solver):
    train = (normal(N, 4), labels(N))
    model = seeded(NoGrad)
    arguments = {"loss": "cross_entropy", "damping": 0.5, "solver": solver, "progress": False}
    with pytest.raises(UnsupportedError, match="no gradient"):
        wherefrom.Influence(model, train, **arguments).fit()
    found = wherefrom.Influence(model, train, parameters="head.*", **arguments).fit().scores(train).values
    features = torch.tanh(model.body(train[0])).detach()
    alone = wherefrom.Influence(model.head, (features, train[1]), **arguments).fit()
    torch.testing.assert_close(found, alone.scores((features, train[1])).values, rtol=1e-9, atol=1e-12)


def test_straight_through_layers_may_lie_before_what_is_studied():
    train = (normal(N, 4), labels(N))
    model = nn.Sequential(*seeded(lambda: net(StraightThrough.apply)), nn.Tanh(), nn.Linear(3, 3)).double()
    arguments = {"loss": "cross_entropy", "damping": 0.5, "progress": False}
    assert wherefrom.Influence(model, train, parameters=["2.*", "4.*"], **arguments).fit().engine


def detached_weight(f: Tensor, y: Tensor) -> Tensor:
    losses = F.cross_entropy(f, y, reduction="none")
    return losses * (1 - torch.exp(-losses)).detach() ** 2


def focal(f: Tensor, y: Tensor) -> Tensor:
    losses = F.cross_entropy(f, y, reduction="none")
    return losses * (1 - torch.exp(-losses)) ** 2


def hardsigmoid_loss(f: Tensor, y: Tensor) -> Tensor:
    return (F.hardsigmoid(f) - 0.5).square().sum(1)


def saved_intermediate_loss(f: Tensor, y: Tensor) -> Tensor:
    return (SavedIntermediate.apply(f) - 0.5).square().sum(1)


def absolute(f: Tensor, y: Tensor) -> Tensor:
    return (f - F.one_hot(y, 3)).abs().sum(1)


@pytest.mark.parametrize("parameters", [None, "2.*"], ids=["network", "head"])
def test_a_loss_that_detaches_is_refused_and_one_that_does_not_is_right(parameters):
    model = seeded(lambda: net(torch.tanh))
    with pytest.raises(UnsupportedError, match=r"gradient of loss 'detached_weight'.*into the targets"):
        checked(objective(model, CustomLoss(detached_weight), parameters=parameters))
    for loss in (focal, absolute):
        assert checked(objective(model, CustomLoss(loss), parameters=parameters))


@pytest.mark.parametrize("loss", [hardsigmoid_loss, saved_intermediate_loss])
def test_a_loss_without_a_right_second_derivative_is_refused_where_it_is_needed(loss):
    engine = checked(objective(seeded(lambda: net(torch.tanh)), CustomLoss(loss)))
    for name in ("ggn", "hessian"):
        with pytest.raises(UnsupportedError, match=r"second derivative"):
            choose_curvature(engine, name)
    assert choose_curvature(engine, "empirical_fisher").name == "empirical_fisher"


def test_the_derivatives_of_a_regulariser_are_checked():
    def made(function):
        return checked(objective(seeded(lambda: net(torch.tanh)), regulariser=function))

    for function, words in (
        (lambda values: (values["0.weight"] * values["0.weight"].detach()).sum(), "gradient of regulariser"),
        (
            lambda values: SavedIntermediate.apply(values["0.weight"]).sum(),
            "second derivative of regulariser",
        ),
        (lambda values: F.hardsigmoid(values["0.weight"]).sum(), "no second derivative"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            choose_curvature(made(function), "ggn")
    for right in (
        lambda values: sum(value.abs().sum() for value in values.values()),
        lambda values: sum(value.pow(4).sum() for value in values.values()),
        lambda values: torch.linalg.matrix_norm(values["0.weight"], ord="nuc"),
    ):
        assert choose_curvature(made(right), "ggn").operator is not None


def test_the_model_is_left_as_it_was():
    model = seeded(RIGHT["BatchNorm1d"], torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    checked(objective(model))
    after = model.state_dict()
    assert all(
        torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items()
    )
    assert isinstance(model[0].weight, nn.Parameter)

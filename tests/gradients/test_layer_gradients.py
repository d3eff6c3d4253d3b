"""All blocks of a model together are autograd's per-example gradients: models of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.gradients.layer_checks import exact
from tests.gradients.layer_models import (
    Custom,
    SequenceFirst,
    batch_first_encoder,
    plain,
    residual,
    token_model,
)
from tests.problems import PROBLEMS, N, classification, labels, normal, seeded
from wherefrom.errors import UnsupportedError
from wherefrom.gradients import GradientEngine, LayerGradients


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems(name):
    exact(PROBLEMS[name]())


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, Custom])
def test_transformer_with_padding(norm):
    rules = exact(token_model(norm=norm))
    assert rules["tokens"] == rules["places"] == ("embedding", "")
    assert rules["body.attention.q"] == ("attention", "")
    assert rules["body.attention.out_proj"] == ("linear", "")
    kind = ("plain module", "Custom has no layer rule") if norm is Custom else ("layer norm", "")
    assert rules["body.norms.0"] == kind


def test_embedding_tied_to_the_head_is_taken_densely():
    rules = exact(token_model(tied=True))
    rule, reason = rules["tokens.weight"] if "tokens.weight" in rules else rules["tokens"]
    assert rule == "dense" and "'tokens' and 'head', which have different layer rules" in reason


def test_large_embedding_tied_to_the_head_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("wherefrom.gradients.layer_gradients.DENSE_LIMIT", 20)
    problem = token_model(tied=True)
    engine = GradientEngine(problem.objective())
    with pytest.raises(UnsupportedError, match=r"module 'tokens' \(tokens.weight; .*shared by"):
        LayerGradients(engine)
    exact(problem, strict=False)


def test_sequence_first_layouts_are_found():
    problem = classification(seeded(SequenceFirst), normal(N, 5, 3), labels(N))
    assert all(reason == "" for _, reason in exact(problem).values())


def test_a_sequence_of_one_position_does_not_hide_the_layout():
    """With one position the batch could pass for positions; longer sequences follow in other batches."""
    x = normal(N, 5, 3)
    problem = classification(seeded(SequenceFirst), x[:, :1], labels(N))
    layers = LayerGradients(GradientEngine(problem.objective()))
    longer = classification(problem.model, x, labels(N))
    objective = longer.objective()
    capture = layers.capture(objective.examples, slice(0, N))
    cotangents = normal(1, N, 3, seed=3)
    truth = torch.einsum("kno,nop->knp", cotangents, longer.dense().jacobian())
    for block, form in zip(layers.blocks, capture.gradients(cotangents)):
        torch.testing.assert_close(form.rows(), truth[:, :, block.index.reshape(-1)])


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_encoders_on_the_fused_inference_path():
    problem = classification(seeded(batch_first_encoder), normal(N, 5, 4), labels(N))
    rules = exact(problem)
    assert rules["encoder.layers.1.self_attn.k"] == ("attention", "")
    assert torch.backends.mha.get_fastpath_enabled()


def test_only_the_output_projection_of_an_attention_layer():
    problem = classification(seeded(SequenceFirst), normal(N, 5, 3), labels(N), parameters="*out_proj*")
    assert exact(problem) == {"layer.self_attn.out_proj": ("linear", "")}


def test_attention_with_odd_options_is_taken_densely():
    def body(m: nn.Module, x: Tensor) -> Tensor:
        y = m.first(x)
        return m.last(m.attention(y, y, y)[0].mean(1))

    attention = seeded(lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True))
    rules = exact(plain(body, (3, 4), attention=attention))
    assert rules["attention"] == ("dense", "MultiheadAttention has no layer rule")
    assert rules["attention.out_proj"][0] == "dense"
    assert "never called" in rules["attention.out_proj"][1]


def test_residual_network_in_eval_mode():
    problem = classification(seeded(residual), normal(N, 2, 5, 4), labels(N))
    rules = exact(problem)
    assert rules == {
        "stem": ("convolution", ""),
        "batch": ("channel norm", ""),
        "inner": ("convolution", ""),
        "group": ("channel norm", ""),
        "instance": ("channel norm", ""),
        "head": ("linear", ""),
    }


@pytest.mark.parametrize("selected", ["*.bias", "*.weight", ["stem", "group.bias"]])
def test_selections(selected):
    exact(classification(seeded(residual), normal(N, 2, 5, 4), labels(N), parameters=selected))


@pytest.mark.parametrize("name", ["convolution", "dict_with_logits", "attention_tokens"])
def test_roots_pulled_back_one_by_one(name, monkeypatch):
    """As in models that are not small."""
    monkeypatch.setattr("wherefrom.gradients.capture._FEW_NUMBERS", 0)
    exact(PROBLEMS[name]())


def test_several_roots_take_smaller_batches():
    layers = LayerGradients(GradientEngine(PROBLEMS["tanh_mlp"]().objective(memory=2**16)))
    assert 1 <= layers.batch_size(20) < layers.batch_size(4) < layers.batch_size(1)

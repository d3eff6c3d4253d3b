"""TracIn over two checkpoints, written outside, in verification, labels, slices and pages."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import wherefrom
from tests.studies.outside import TASK, TRACIN, tracin_task
from tests.support import as_a_user
from wherefrom.cli.main import app
from wherefrom.errors import InputError, UnsupportedError


@pytest.fixture(scope="module")
def made():
    names: dict = {}
    exec(TRACIN + TASK, names)
    names["tracin"] = names["TracIn"](
        [names["trained"](5), names["trained"](60)], 0.5, names["train"], names["loss"]
    )
    return names


def products(model, train, queries):
    """`∇ℓ_qᵀ ∇ℓ_i` by plain autograd."""

    def rows(x, y):
        found = []
        for a, b in zip(x, y):
            loss = torch.nn.functional.cross_entropy(model(a[None]), b[None])
            found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, [*model.parameters()])]))
        return torch.stack(found)

    return rows(*queries) @ rows(*train).T


def test_it_is_written_in_less_than_30_lines():
    assert len(TRACIN.strip().splitlines()) < 30


def test_its_scores_are_the_sum_over_checkpoints(made):
    expected = sum(0.5 * products(made["trained"](k), made["train"], made["queries"]) for k in (5, 60))
    torch.testing.assert_close(made["tracin"].scores(made["queries"]).values, expected, rtol=1e-9, atol=1e-12)


def test_verification_gives_an_order_and_no_size(made):
    found = wherefrom.verify(made["tracin"], made["queries"], made["recipe"], remove=12)
    assert found.predicted.shape == (12, 6) and found.spearman() > 0.8
    assert found.judgement().verdict in ("ranking only", "no", "cannot tell")


def test_labels_are_ranked_by_what_it_knows(made):
    audit = wherefrom.labels(made["tracin"], made["validation"])
    assert set(audit.signals) == {"loss", "margin", "harm"}
    mean = made["tracin"].scores(made["validation"]).values.mean(0)
    torch.testing.assert_close(audit.signals["harm"], -mean / 40)
    assert not audit.sized
    fitted = wherefrom.Influence(made["model"], made["train"], loss=made["loss"], progress=False)
    assert wherefrom.labels(fitted.fit(), made["validation"]).sized
    assert {3, 17} <= set(audit.order()[:4].tolist())
    assert not audit.wrong.told and "TracIn does not predict" in audit.wrong.words


def test_what_it_cannot_do_is_refused_by_name(made):
    tracin = made["tracin"]
    with pytest.raises(UnsupportedError, match="self_scores: TracIn has no"):
        tracin.self_scores()
    with pytest.raises(UnsupportedError, match="left_out='exact': TracIn has no"):
        wherefrom.labels(tracin, left_out="exact")
    with pytest.raises(InputError, match=r"values has shape \(2, 3\); expected \(6, 40\)"):
        tracin.scored(torch.zeros(2, 3), made["queries"])
    with pytest.raises(InputError, match="hold NaN or infinity"):
        tracin.scored(torch.full((6, 40), torch.nan), made["queries"])
    with pytest.raises(TypeError, match="scores"):
        wherefrom.Attributor(tracin.objective)
    with as_a_user(), pytest.raises(InputError, match="objective is a list"):
        type("Mine", (wherefrom.Attributor,), {"scores": lambda self, q, m="loss": None})([])


def test_commands_take_it_from_the_task_file(tmp_path):
    file = tracin_task(tmp_path)
    result = CliRunner(env={"COLUMNS": "80"}).invoke(
        app, ["labels", str(file), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "Can this be trusted? Cannot tell" in result.output
    summary = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert summary["trust"]["minimum"] == "not checked" and summary["settings"]["method"] == "TracIn"
    page = (tmp_path / "out" / "labels.html").read_text(encoding="utf-8")
    assert "does not say what it would be" in page
    # A likeness is no harm: neither page nor terminal claims one.
    for text in (page, result.output):
        assert "an order of likeness" in " ".join(text.split())
        for claim in ("predicted fall", "predicted to fall", "harm", "does to the loss"):
            assert claim not in text.partition("Labels to check.")[2], claim
    assert "Score against validation" in page and "score against validation" in page
    assert "against" in result.output
    refused = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, ["labels", str(file), "--out", str(tmp_path / "o"), "--solver", "cg"]
    )
    assert refused.exit_code == 2 and "takes no solver" in refused.output


def test_slices_are_sums_of_its_scores(made):
    tracin = made["tracin"]
    table = wherefrom.slices(tracin, made["queries"], made["train_groups"], ["a", "b", "a", "b", "b", "a"])
    scores = sum(0.5 * products(made["trained"](k), made["train"], made["queries"]) for k in (5, 60))
    for t, name in enumerate(table.train.names):
        members = [i for i, group in enumerate(made["train_groups"]) if group == name]
        for q, part in enumerate(([0, 2, 5], [1, 3, 4])):
            each = scores[part][:, members].sum(1) / 40
            assert float(table.change[t, q]) == pytest.approx(float(each.mean()))
            assert float(table.standard_error[t, q]) == pytest.approx(float(each.std()) / 3**0.5)
    x, y = made["queries"]
    losses = torch.nn.functional.cross_entropy(made["trained"](60)(x), y, reduction="none")
    torch.testing.assert_close(
        table.measured, torch.stack([losses[[0, 2, 5]].mean(), losses[[1, 3, 4]].mean()])
    )
    assert bool(table.error.isinf().all()) and not table.sized
    assert next(iter(table))["reason"] == "these scores are an order, without a size"
    with pytest.raises(UnsupportedError, match="harmful_groups: TracIn has no gradients and curvature"):
        wherefrom.harmful_groups(tracin, made["validation"])


def test_the_errors_of_its_scores_are_added_up(made):
    class Known(made["TracIn"]):
        def scores(self, queries, measurement="loss"):
            return self.scored(torch.ones(6, 40), queries, measurement, error=0.01 * torch.ones(6, 40))

    known = Known([made["trained"](60)], 0.5, made["train"], made["loss"])
    table = wherefrom.slices(known, made["queries"], {"few": [0, 1, 2]})
    assert float(table.error) == pytest.approx(3 * 0.01 / 40) and float(table.change) == pytest.approx(3 / 40)


def test_the_slices_command_leaves_clusters_out_and_says_so(tmp_path):
    out, file = tmp_path / "out", tracin_task(tmp_path)
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["slices", str(file), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines() if str(out) not in line) <= 80
    summary = json.loads((out / "slices.json").read_text())
    assert len(summary["slices"]) == 2 and summary["clusters"] is None
    assert summary["settings"]["method"] == "TracIn" and not (out / "clusters.csv").exists()
    said = "left out: they are made of the gradients and the curvature of an influence function"
    page = (out / "slices.html").read_text(encoding="utf-8")
    assert said in " ".join(page.split()) and said in " ".join(result.output.split())
    # Sums of likenesses are no changes: neither says so.
    for text in (page, result.output):
        assert "order of likeness" in text and "Most harmful one by one" in text
        for claim in (
            "removed from training",
            "removal:",
            "of the harm",
            "No size",
            "± solver",
            "by the solver",
        ):
            assert claim not in text, claim
    assert "is predicted to change" not in page and "heat unresolved" not in page


@pytest.mark.parametrize(("command", "edit"), [("flip", []), ("change", ["--remove", "3"])])
def test_what_needs_the_curvature_is_refused_by_name(tmp_path, command, edit):
    out = tmp_path / "out"
    result = CliRunner(env={"COLUMNS": "300"}).invoke(
        app, [command, str(tracin_task(tmp_path)), "--out", str(out), *edit]
    )
    assert result.exit_code == 2 and f"{command}: TracIn has no gradients and curvature" in result.output
    assert not out.exists()

"""The tables of exact numbers against autograd, against formulas written out, and against what the probe recorded."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from gradscope.scenarios import hello_rnn, models
from gradscope.scenarios.hello_rnn import SCENARIO, W_HH, W_HY, W_XH, WINDOWS, by_hand
from gradscope.scenarios.runner import run

EACH = pytest.mark.parametrize("name", WINDOWS)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SCENARIO, seeds=[0], steps=None, settings={}, directory=tmp_path_factory.mktemp("run"))


def one(result, name):
    (found,) = result.of(SCENARIO.variant(name))
    return found


def exhibit(result, name, title):
    return next(e for e in one(result, name).exhibits if e.title.startswith(title))


def column(exhibit, head):
    return [row[exhibit.heads.index(head)] for row in exhibit.rows]


def test_it_comes_out_as_expected_and_no_rule_complains(result):
    assert result.as_expected
    assert not any(run.diagnosis.findings for run in result.runs)


def test_the_matrices_are_the_lectures():
    assert W_XH == ((0.3, 1.0, 0.1, 0.5), (-0.1, 0.3, -0.3, 0.1), (-0.1, 0.1, -0.5, -0.5))
    assert W_HH == ((0.1, 0.4, 0.8), (-0.1, 0.5, -0.2), (0.9, 0.2, 0.6))
    assert W_HY == ((0.3, 0.9, 0.1), (0.2, -0.6, 0.5), (-0.1, 0.1, 0.5), (0.1, 1.0, 0.2))
    model = SCENARIO.variant("full").build({})
    assert [name for name, _ in model.named_parameters()] == ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    for parameter, matrix in zip(model.parameters(), (W_XH, W_HH, W_HY), strict=True):
        assert torch.equal(parameter.detach(), torch.tensor(matrix))


def test_the_first_and_the_last_step_as_a_person_would_work_them_out():
    moments = by_hand(None)
    assert moments[0].h == pytest.approx(np.tanh([0.3, -0.1, -0.1]))
    h = moments[0].h
    second = [
        1.0 + 0.1 * h[0] + 0.4 * h[1] + 0.8 * h[2],
        0.3 - 0.1 * h[0] + 0.5 * h[1] - 0.2 * h[2],
        0.1 + 0.9 * h[0] + 0.2 * h[1] + 0.6 * h[2],
    ]
    assert moments[1].h == pytest.approx(np.tanh(second))
    e = np.exp([0.3 * h[0] + 0.9 * h[1] + 0.1 * h[2], 0.2 * h[0] - 0.6 * h[1] + 0.5 * h[2],
                -0.1 * h[0] + 0.1 * h[1] + 0.5 * h[2], 0.1 * h[0] + 1.0 * h[1] + 0.2 * h[2]])  # fmt: skip
    assert moments[0].p == pytest.approx(e / e.sum())

    last, before = moments[3], moments[2]
    d = last.p - [0, 0, 0, 1]  # the target is o
    assert last.local == pytest.approx(
        [0.3 * d[0] + 0.2 * d[1] - 0.1 * d[2] + 0.1 * d[3],
         0.9 * d[0] - 0.6 * d[1] + 0.1 * d[2] + 1.0 * d[3],
         0.1 * d[0] + 0.5 * d[1] + 0.5 * d[2] + 0.2 * d[3]]
    )  # fmt: skip
    assert not last.carried.any()
    z = (1 - last.h**2) * last.total
    assert before.carried == pytest.approx(
        [
            0.1 * z[0] - 0.1 * z[1] + 0.9 * z[2],
            0.4 * z[0] + 0.5 * z[1] + 0.2 * z[2],
            0.8 * z[0] - 0.2 * z[1] + 0.6 * z[2],
        ]
    )


@EACH
def test_every_gradient_is_autograds(name):
    """The second implementation: a cell in a loop, in float64, cut by detach."""
    window = WINDOWS[name]
    w_xh, w_hh, w_hy = (torch.tensor(m, dtype=torch.float64, requires_grad=True) for m in (W_XH, W_HH, W_HY))
    inputs, targets = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 2]], torch.tensor([1, 2, 2, 3])
    h, states, loss = torch.zeros(3, dtype=torch.float64), [], 0.0
    for t in range(4):
        if window and t % window == 0:
            h = h.detach()
        h = torch.tanh(w_xh @ inputs[t] + w_hh @ h)
        states.append(h)
        loss = loss + nn.functional.cross_entropy(w_hy @ h, targets[t])
    gradients = torch.autograd.grad(loss, states)
    for moment, state, gradient in zip(by_hand(window), states, gradients, strict=True):
        assert moment.h == pytest.approx(state.detach().numpy())
        assert moment.total == pytest.approx(gradient.numpy())
        assert moment.total == pytest.approx(moment.local + moment.carried)


def test_the_loss_of_the_first_step_is_the_sum_of_the_tables_last_column(result):
    surprise = column(exhibit(result, "full", "Forward"), "−ln p")
    model = SCENARIO.variant("full").build({})
    inputs, targets = next(SCENARIO.task({}).batches(0))
    loss = SCENARIO.task({}).loss(model(inputs), targets)
    assert sum(surprise) == pytest.approx(loss.item(), rel=1e-5)


def test_the_recorded_norms_are_those_worked_out(result):
    norms = exhibit(result, "full", "Their norms")
    for head in ("local", "carried", "∂L/∂h_t"):
        recorded = column(norms, f"‖{head}‖ recorded")
        assert recorded == pytest.approx(column(norms, f"‖{head}‖ by hand"), rel=1e-5, abs=1e-7)
    for name in ("window 2", "window 1"):
        back = exhibit(result, name, "Back")
        recorded = column(back, "‖∂L/∂h_t‖ recorded")
        assert recorded == pytest.approx(column(back, "‖∂L/∂h_t‖ by hand"), rel=1e-5)


@EACH
def test_a_window_cuts_what_is_carried_and_nothing_else(result, name):
    full, cut = by_hand(None), by_hand(WINDOWS[name])
    for t, (a, b) in enumerate(zip(full, cut, strict=True)):
        assert b.local == pytest.approx(a.local)
        edge = t == 3 or (WINDOWS[name] is not None and (t + 1) % WINDOWS[name] == 0)
        assert edge == (not b.carried.any())
    assert one(result, name).metrics["accuracy"] == 1


def test_the_shorter_the_window_the_later_the_word(result):
    metrics = [one(result, name).metrics for name in WINDOWS]
    assert metrics[0]["spelled_after"] < metrics[1]["spelled_after"] < metrics[2]["spelled_after"]
    assert metrics[0]["carried_share"] > metrics[1]["carried_share"] > metrics[2]["carried_share"] == 0


def test_the_tables_are_in_the_document(result):
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    (matrices, forward, back, norms), *others = (variant["exhibits"] for variant in document["variants"])
    assert matrices["rows"][3] == ["3", "", "", [0.1, 1.0, 0.2]]
    assert forward["rows"][0][2] == pytest.approx(np.tanh([0.3, -0.1, -0.1]).tolist())
    assert back["heads"] == ["t", "local", "carried", "∂L/∂h_t"]
    assert len(norms["rows"]) == 4
    assert [len(tables) for tables in others] == [1, 1]


def test_a_window_that_does_not_divide_the_word_cuts_where_the_model_does():
    model = models.Speller(W_XH, W_HH, W_HY, window=3)
    lengths = [part.shape[1] for part in models.windows_of(model.rnn, torch.zeros(1, 4, 4), 3)]
    assert lengths == [1, 3]
    assert [bool(m.carried.any()) for m in by_hand(3)] == [False, True, True, False]
    assert hello_rnn.one_hot("l").tolist() == [0, 0, 1, 0]


def test_a_word_not_yet_spelled_has_no_number(tmp_path):
    few = run(SCENARIO, seeds=[0], steps=3, settings={}, directory=tmp_path)
    assert all(np.isnan(r.metrics["spelled_after"]) and r.metrics["accuracy"] < 1 for r in few.runs)

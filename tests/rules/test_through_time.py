from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import chain, links, read_at_the_end, recurrent_trace, trace_of
from torch import nn

import gradscope
from gradscope.errors import NotJudged
from gradscope.records import Quantity
from gradscope.recurrence import recurrences
from gradscope.rules.engine import diagnose
from gradscope.rules.exploding_through_time import ExplodingThroughTime
from gradscope.rules.through_time import by_step, judged_recurrences, recurrent_weight
from gradscope.rules.vanishing_through_time import VanishingThroughTime


def test_a_step_is_sick_if_half_of_its_known_sequences_are():
    starts = np.full(40, np.nan)
    starts[::10] = 0.0
    trace = recurrent_trace({key: np.tile(v, 4) for key, v in read_at_the_end(0.5, 10).items()} | {
        "state h0_l0": starts
    }, steps=3)  # fmt: skip
    (found,) = recurrences(trace)
    assert found.step.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    sick = np.array([1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], dtype=bool)
    known = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    bad, judged = by_step(trace, found, sick, known)
    assert bad.tolist() == [True, False, False]
    assert judged.tolist() == [True, True, False]


def test_only_layers_in_which_a_gradient_travels_far_enough_are_judged():
    trace = recurrent_trace(read_at_the_end(0.5, 11, "l0") | read_at_the_end(0.5, 10, "l1"))
    assert [r.suffix for r in judged_recurrences(trace)] == ["l0"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (read_at_the_end(0.5, 10), "needs a gradient that can travel 10 time steps, the longest here travels 9$"),
        (read_at_the_end(0.5, 10) | {"state h0_l0": 0.5}, "the longest here travels 9, as its windows are cut"),
        ({"state h_l0": np.ones(20)}, "needs a recurrent layer with a gradient, the trace has none"),
    ],
)
def test_what_is_missing_is_told(values, reason):
    with pytest.raises(NotJudged, match=reason):
        judged_recurrences(recurrent_trace(values))


def test_the_recurrent_matrix_is_called_as_in_the_model():
    layer, top = (
        recurrences(recurrent_trace(read_at_the_end(0.5, 10), module=module))[0] for module in ("net.rnn", "")
    )
    assert recurrent_weight(layer) == "net.rnn.weight_hh_l0"
    assert recurrent_weight(top) == "weight_hh_l0"
    for mode, name in (("GRU", "cell.weight_hh"), ("", "the recurrent matrix")):
        (cell,) = recurrences(recurrent_trace({"state_grad h": np.ones(9)}, module="cell", mode=mode))
        assert recurrent_weight(cell) == name


def test_a_model_without_recurrence_is_not_said_to_be_unjudged():
    rules = (VanishingThroughTime(), ExplodingThroughTime())
    plain = {"steps": 3, "output_grad_rms": np.ones(4)}
    assert not diagnose(trace_of(**plain, meta={"recurrent": {}}), rules).not_judged
    assert len(diagnose(trace_of(**plain, meta={"recurrent": {"rnn": "GRU"}}), rules).not_judged) == 2
    assert len(diagnose(trace_of(**plain), rules).not_judged) == 2  # a trace that does not tell


def test_a_loop_whose_graph_was_not_seen_is_not_judged():
    # no metadata: a trace of an earlier version
    calls = recurrent_trace({"output_grad ": np.ones(30)}, mode="")
    trace = replace(calls, meta={"recurrent": {}})
    with pytest.raises(NotJudged, match="rnn runs many times in a step, but no module is handed back"):
        VanishingThroughTime().concerns(trace)
    seen = replace(trace, meta={"recurrent": {}, "flow": links(*chain("in", "rnn", "head", "out")).to_list()})
    assert not VanishingThroughTime().concerns(seen)


@pytest.mark.parametrize(("scale", "rule"), [(0.3, VanishingThroughTime), (1.9, ExplodingThroughTime)])
def test_a_loop_without_a_cell_is_judged_by_the_layer_that_is_given_the_state(scale, rule):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.u, self.out = nn.Linear(2, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 1)
            nn.init.orthogonal_(self.u.weight, scale)

        def forward(self, x):
            h = torch.zeros(len(x), 4)
            for x_t in x.unbind(1):
                h = self.i(x_t) + self.u(h)
            return self.out(h)

    torch.manual_seed(0)
    model = Loop()
    with gradscope.attach(model) as scope:
        for _ in range(3):
            model(torch.randn(3, 20, 2)).sum().backward()
            scope.step()
    (finding,) = rule().check(scope.trace)
    assert finding.module == "u"
    assert finding.sites[0].quantity is Quantity.INPUT_GRAD
    assert f"{scale:.1f}" in finding.message  # orthogonal and linear: the gain is the scale

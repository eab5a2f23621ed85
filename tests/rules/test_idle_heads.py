from dataclasses import replace

import numpy as np
import pytest
from builders import links, trace_of

from gradscope.findings import Severity
from gradscope.rules.idle_heads import idle_heads
from gradscope.rules.zero_loss_gradient import ZeroLossGradient

MODULES = ["trunk", "policy", "log_softmax#0", "value"]
TYPES = ["Linear", "Linear", "function", "Linear"]
EDGES = [("in", "trunk"), ("trunk", "policy"), ("policy", "log_softmax#0"), ("trunk", "value")]
NAN = np.nan
STEPS = 10


def trace(gradient, *, edges=(("log_softmax#0", "out"), ("value", "out")), through=()):
    """Norms of ∂L/∂y of the four; the two heads lead to outputs of their own."""
    made = links(*EDGES).to_list()
    for number, (one, other) in enumerate(edges):
        (link,) = links((one, other), through=through if one == "log_softmax#0" else ()).to_list()
        if other == "out":
            link = {**link, "to": [*link["to"][:2], str(number)]}
        made.append(link)
    found = trace_of(
        modules=MODULES,
        types=TYPES,
        output_l2_norm=np.ones((STEPS, 4)),
        output_grad_l2_norm=np.broadcast_to(np.asarray(gradient, dtype=float), (STEPS, 4)),
        weight_l2_norm=np.array([1.0, 1.0, NAN, 1.0]),
        weight_grad_l2_norm=np.array([1.0, 0.0, NAN, 1.0]),
        weight_update_l2_norm=np.array([0.1, 0.0, NAN, 0.1]),
        loss=0.7,
    )
    return replace(found, meta={"flow": made, "optimizers": [{"type": "Adam"}]})


def left_out(found):
    """The policy's weight without an update."""
    keep = [i for i, s in enumerate(found.sites) if (s.quantity, s.module) != ("weight_update", "policy")]
    statistics = {name: values[:, keep] for name, values in found.statistics.items()}
    return replace(found, sites=tuple(found.sites[i] for i in keep), statistics=statistics)


ZEROS = [1.0, 0.0, 0.0, 1.0]
late = np.where(np.arange(STEPS)[:, None] == 9, 1.0, ZEROS)
together = links(*EDGES, ("log_softmax#0", "out"), ("value", "out")).to_list()
BROKEN = {
    "a ratio outside its clip": trace(ZEROS),
    "of which some elements are taken": trace(ZEROS, through=("SelectBackward0", "ViewBackward0")),
}
CLEAN = {
    "both learn": trace([1.0, 1.0, 1.0, 1.0]),
    "it learns in the last step": trace(late),
    "the loss does not use it": trace([1.0, NAN, NAN, 1.0]),
    "a function on the way, as a softmax, makes the zeros": trace([1.0, 0.0, 1.0, 1.0]),
    "the model multiplies it": trace(ZEROS, through=("MulBackward0",)),
    "it feeds the other head as well": trace(
        ZEROS, edges=(("log_softmax#0", "out"), ("log_softmax#0", "value"), ("value", "out"))
    ),
    "the model puts both into one output": replace(trace(ZEROS), meta={**trace(ZEROS).meta, "flow": together}),
    "no optimizer holds it": left_out(trace(ZEROS)),
}


@pytest.mark.parametrize("found", BROKEN.values(), ids=BROKEN)
def test_a_head_that_is_handed_zeros_is_found(found):
    if found is BROKEN["a ratio outside its clip"]:
        assert [site.module for site in idle_heads(found, 3)] == ["policy"]
    (finding,) = ZeroLossGradient().check(found)
    assert (finding.module, finding.severity, finding.measured) == ("policy", Severity.ERROR, 0.0)
    assert "while other outputs get a gradient" in finding.message


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_a_head_that_gets_something_or_that_the_model_shuts_off_is_clean(found):
    assert idle_heads(found, 3) == []


def test_without_the_graph_of_the_forward_pass_nothing_is_said():
    assert idle_heads(replace(trace(ZEROS), meta={}), 3) == []

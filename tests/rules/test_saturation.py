import numpy as np
import pytest
from builders import chain, links, trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.records import COLUMN, STATISTICS, Quantity, Site
from gradscope.rules.saturation import Saturation
from gradscope.trace import StepRecord, TraceBuilder

NAN = np.nan
TYPES = ["Linear", "Tanh", "Linear", "Sigmoid", "Linear", "Tanh"]


def trace(saturated, steps=20, weight=0.2, **more):
    """One share for each of three bounded activations, each behind a Linear; the last is the model's output."""
    share = np.full((steps, 6), NAN)
    share[:, 1::2] = saturated
    return trace_of(
        types=TYPES,
        weight_rms=[weight, NAN] * 3,
        output_rms=[12.0, 1.0] * 3,
        output_saturated_fraction=share,
        **more,
    )


heals = np.where(np.arange(20)[:, None] < 8, [0.9, 0, 0], [0.2, 0, 0])
CLEAN = {
    "steep": trace([0.1, 0.3, 0.2]),
    "half": trace([0.5, 0.6, 0.2]),
    "the output learns to": trace(np.c_[np.full((20, 2), 0.1), np.linspace(0.1, 1.0, 20)]),
    "heals": trace(heals),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_activations_that_still_have_a_slope_are_clean(found):
    assert list(Saturation().check(found)) == []


@pytest.mark.parametrize(("share", "severity"), [(0.8, Severity.WARNING), (0.99, Severity.ERROR)])
def test_an_activation_stuck_at_its_bounds_is_found(share, severity):
    (finding,) = Saturation().check(trace([share, 0.1, 0.1]))
    assert (finding.module, finding.severity) == ("1", severity)
    assert "0 gives it values with an rms of 12" in finding.cause
    assert "by 12" in finding.remedy


@pytest.mark.parametrize(("scale", "what"), [(1.0, "what 0 is given"), (12.0, "the weights of 0")])
def test_what_is_divided_is_the_larger_of_the_weights_and_what_they_are_given(scale, what):
    """A layer of 1000 weights without a bias counts as square."""
    (finding,) = Saturation().check(trace([0.8, 0.1, 0.1], weight=scale / 1000**0.25))
    assert finding.remedy.startswith(f"Divide {what} by 12: ")


def test_an_output_that_begins_at_its_bounds_and_stays_there_is_found():
    (finding,) = Saturation().check(trace([0.1, 0.1, 0.9]))
    assert (finding.module, finding.severity) == ("5", Severity.WARNING)


def test_what_training_brings_to_its_bounds_while_the_loss_falls_is_worth_knowing():
    grows = np.where(np.arange(20)[:, None] < 8, [0.2, 0, 0], [0.9, 0, 0])
    severities = [
        finding.severity
        for loss in (np.linspace(1, 0.1, 20), np.linspace(1, 0.9, 20))
        for finding in Saturation().check(trace(grows, loss=loss))
    ]
    assert severities == [Severity.INFO, Severity.WARNING]
    (built_so,) = Saturation().check(trace([0.9, 0, 0], loss=np.linspace(1, 0.1, 20)))
    assert built_so.severity is Severity.WARNING


def lstm(spreads, rms=1.0):
    """An LSTM behind a Linear; the pre-activations of its gates are normal, with these standard deviations."""
    x = np.random.default_rng(0).standard_normal(20_000)
    names = [f"{kind}_l0" for kind in ("input", "forget", "cell", "output")]
    moments = []
    for name, spread in zip(names, spreads, strict=True):
        y = np.tanh(spread * x) if name == "cell_l0" else 1 / (1 + np.exp(-spread * x))
        moments.append((y.mean(), np.sqrt((y**2).mean())))
    given = Site(module="fc", module_type="Linear", quantity=Quantity.OUTPUT, depth=1)
    own = [Site(module="lstm", module_type="LSTM", quantity=Quantity.GATE, name=name, depth=2) for name in names]
    table = np.full((10, 5, len(STATISTICS)), np.nan, np.float32)
    table[:, :, COLUMN["numel"]], table[:, 0, COLUMN["rms"]] = 100, rms
    table[:, 1:, COLUMN["mean"]], table[:, 1:, COLUMN["rms"]] = zip(*moments, strict=True)
    no_times = {"time_index": np.zeros((0, 2), np.int32), "time_values": np.zeros((0, len(STATISTICS)), np.float32)}
    builder = TraceBuilder()
    for step in range(10):
        builder.append(StepRecord(step=step, per_step={}, values=table[step], **no_times), [given, *own], {})
    return builder.finish([given, *own], {})


def test_a_recurrent_layer_all_of_whose_gates_are_stuck_is_found():
    (finding,) = Saturation().check(lstm([80, 80, 80, 80], rms=200.0))
    assert (finding.module, finding.severity) == ("lstm", Severity.ERROR)
    assert "given values with an rms of 200 by fc" in finding.cause
    assert "by 200" in finding.remedy
    (mild,) = Saturation().check(lstm([20, 20, 20, 20]))
    assert mild.severity is Severity.WARNING
    assert "Draw the weights of lstm as small as torch does" in mild.remedy


@pytest.mark.parametrize("spreads", [[1, 1, 1, 1], [1, 100, 1, 1], [30, 30, 1, 30], [0.1, 0.1, 30, 0.1]])
def test_a_gate_that_is_still_steep_keeps_the_layer_alive(spreads):
    assert list(Saturation().check(lstm(spreads))) == []


def gate(given):
    found = trace_of(
        types=["Linear", "Linear", "Sigmoid", "Linear"],
        numel=400,
        weight_rms=[0.2, 0.2, NAN, 0.2],
        output_rms=np.ones(4),
        output_saturated_fraction=[NAN, NAN, 0.99, NAN],
        output_grad_l2_norm=[1.0, 0.01, 0.2, 1.0],
        input_grad_l2_norm=[NAN, given, 0.01, 1.0],
    )
    return list(Saturation().check(found))


def test_a_gate_beside_a_path_that_carries_the_gradient_may_be_closed():
    assert gate(given=1.0) == []
    assert [finding.module for finding in gate(given=0.01)] == ["2"]


def test_rectifiers_alone_cannot_saturate():
    with pytest.raises(NotJudged, match="needs a bounded activation in 3 recorded steps"):
        list(Saturation().check(trace_of(types=["Linear", "ReLU"], output_rms=np.ones(2), weight_rms=[1.0, NAN])))


def softmax(rms, gradient=0.1):
    """A router of four experts; at an rms of a half all of its rows are one-hot, at a quarter they are uniform."""
    return trace_of(
        steps=20,
        modules=["router", "softmax#0", "expert"],
        types=["Linear", "Softmax", "Linear"],
        weight_rms=[0.2, NAN, 0.2],
        output_mean=np.tile([0.1, 0.25, 0.0], (20, 1)),
        output_rms=np.c_[np.full(20, 30.0), np.broadcast_to(rms, 20), np.ones(20)],
        output_grad_l2_norm=[0.0, gradient, 1.0],
        meta={"flow": links(*chain("in", "router", "softmax#0"), ("softmax#0", "out"), ("expert", "out")).to_list()},
    )


def test_a_softmax_that_has_chosen_before_it_learns_is_found():
    (finding,) = Saturation().check(softmax(0.5))
    assert (finding.module, finding.severity, finding.measured) == ("router", Severity.ERROR, 0.0)
    assert "what router returns, with an rms of 30, decides" in finding.cause


OPEN = {
    "uniform": softmax(0.25),
    "sharp, but no longer flat": softmax(0.48),
    "sharp by learning": softmax(np.where(np.arange(20) < 5, 0.3, 0.5)),
    "not in the loss": softmax(0.5, gradient=NAN),
}


@pytest.mark.parametrize("found", OPEN.values(), ids=OPEN)
def test_a_softmax_that_is_steep_or_meant_to_choose_is_clean(found):
    assert list(Saturation().check(found)) == []

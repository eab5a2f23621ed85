from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from builders import chain, joined, links, trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.forward_variance_collapse import ForwardVarianceCollapse

D = 10


def trace(std, grad=None, rms=0.2, types="Linear"):
    std = np.asarray(std, dtype=float)
    more = {} if grad is None else {"output_grad_l2_norm": grad}
    return trace_of(steps=20, types=types, numel=400, weight_rms=np.full(std.shape[-1], rms), output_std=std, **more)


def along(gain, layers=D):
    return gain ** np.arange(layers)


BROKEN = {
    "a tenth per layer": trace(along(0.1), rms=0.02),
    "hidden by biases": trace(np.ones(D), grad=along(0.1)[::-1], rms=0.02),
    "then flat": trace(np.r_[along(0.1, 6), np.full(4, 1e-6)], rms=0.02),
}
CLEAN = {
    "kept": trace(np.ones(D)),
    "Xavier-Tanh": trace(along(0.9)),
    "saturating activations, weights as asked": trace(np.ones(D), grad=along(0.1)[::-1], rms=0.22),
    "small weights, but the gradient is kept": trace(np.ones(D), grad=np.ones(D), rms=0.02),
    "a small head": trace(np.r_[np.ones(D - 1), 1e-4]),
}


@pytest.mark.parametrize("found", BROKEN.values(), ids=BROKEN)
def test_a_signal_that_dies_out_is_found(found):
    (finding,) = ForwardVarianceCollapse().check(found)
    assert finding.measured >= finding.threshold
    assert finding.module == "0"
    assert "0.089 times the scale" in finding.cause


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_a_signal_that_arrives_is_clean(found):
    assert list(ForwardVarianceCollapse().check(found)) == []


def test_the_first_layer_with_weights_so_small_is_named():
    rms = np.where(np.arange(D) < 3, 0.2, 0.02)
    std = np.r_[1, 0.5, 0.3, 0.3 * along(0.1, D - 3)]
    (finding,) = ForwardVarianceCollapse().check(trace_of(steps=20, numel=400, weight_rms=rms, output_std=std))
    assert finding.module == "3"
    assert "3 is the first of them" in finding.cause
    assert "3 has an rms of 0.02" in finding.remedy


@pytest.mark.parametrize(("inputs", "module"), [(400, "3"), (4000, "0")], ids=["drawn larger", "of more inputs"])
def test_a_layer_drawn_by_another_rule_is_none_of_the_small_ones(inputs, module):
    """A first part that torch has initialised, 3 times the scale of the rest; and one whose layers are only wider."""
    wide = np.arange(D) < 3
    rms = np.where(wide, 0.06 if inputs == 400 else 0.019, 0.02)
    shapes = {"shapes": {f"{i}.weight": [20, inputs if w else 400] for i, w in enumerate(wide)}}
    std = np.r_[1, 0.3, 0.1, 0.1 * along(0.1, D - 3)]
    names = [str(i) for i in range(D)]
    found = trace_of(steps=20, modules=names, numel=8000, weight_rms=rms, output_std=std, meta=shapes)
    (finding,) = ForwardVarianceCollapse().check(found)
    assert finding.module == module


def test_the_remedy_gives_the_std_that_the_activation_asks_for():
    (finding,) = ForwardVarianceCollapse().check(trace(along(0.1), rms=0.02))
    assert "a std of 0.22 keeps the spread" in finding.remedy
    assert finding.severity is Severity.ERROR


def test_three_layers_are_too_few_to_judge():
    with pytest.raises(NotJudged, match="the trace has 3"):
        list(ForwardVarianceCollapse().check(trace(along(0.01, 3))))


def residual(share, types="Linear", streams=True, join="AddBackward0"):
    """Six branches of one layer each around a stream, whose outputs differ from sample to sample in that share."""
    branches = [f"fc{i}" for i in range(6)]
    names = ["stem", *branches, "head"]
    edges = [*chain("in", *names, "out"), ("stem", "fc1")]
    edges += [(f"{a}?", b) for a, b in pairwise([*branches[1:], "head"])]
    found = trace_of(
        modules=names,
        types=types,
        weight_rms=np.full(8, 0.2),
        output_std=np.ones(8),
        output_grad_l2_norm=np.ones(8),
        output_sample_spread=share,
    )
    given = trace_of(modules=names, input_grad_l2_norm=[np.nan, *np.ones(7)])
    graph = links(*edges, through=(join,)) if streams else links(*chain("in", *names, "out"))
    return replace(joined(found, given), meta={"flow": graph.to_list()})


def test_a_stream_in_which_samples_become_the_same_is_found():
    (finding,) = ForwardVarianceCollapse().check(residual(along(0.2, 8)))
    assert (finding.module, finding.measured) == ("stem", pytest.approx(-7 * np.log10(0.2)))
    assert "the share of the output in which samples differ loses 4.9 decades" in finding.message
    assert finding.remedy.startswith("Let the shortcuts")


KEPT = {
    "that differ": residual(np.ones(8)),
    "that lose a little": residual(along(0.5, 8)),
    "without joins, where the gradient tells": residual(along(0.2, 8), streams=False),
    "of products, as by gates": residual(along(0.2, 8), join="MulBackward0"),
    "by sigmoids, whose slopes do it": residual(along(0.2, 8), types=["Linear"] * 7 + ["Sigmoid"]),
}


@pytest.mark.parametrize("found", KEPT.values(), ids=KEPT)
def test_samples_of_other_nets_are_not_judged(found):
    assert list(ForwardVarianceCollapse().check(found)) == []

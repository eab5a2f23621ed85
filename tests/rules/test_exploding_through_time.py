import numpy as np
import pytest
import torch
from builders import read_at_the_end, recurrent_trace
from torch import nn

import gradscope
from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.exploding_through_time import ExplodingThroughTime

T = 60
rng = np.random.default_rng(0)
steps = np.arange(100)[:, None]


def trace(values, **more):
    return recurrent_trace(values, **({"steps": 100} | more))


def everywhere(gain, length=T):
    """A loss at every step that adds 1 to what is carried."""
    total = np.zeros(length)
    carried = np.zeros(length)
    for t in reversed(range(length)):
        carried[t] = gain * total[t + 1] if t + 1 < length else 0.0
        total[t] = 1.0 + carried[t]
    return total, carried


def both(total_and_carried):
    return dict(zip(("state_grad h_l0", "state_grad h_l0.carried"), total_and_carried, strict=True))


jump = np.where(np.arange(T) < 20, 1e6, 1.0)

BROKEN = {
    "the identity times 1.2": read_at_the_end(1.2),
    "1.05 over two hundred": read_at_the_end(1.05, 200),
    "with noise": {k: v * 10 ** rng.normal(0, 0.1, (100, T)) for k, v in read_at_the_end(1.3).items()},
    "in the reverse direction": read_at_the_end(1.2, suffix="l0_reverse"),
    "a loss at every step": both(everywhere(1.15)),
    "a loop over a cell": {"state_grad h": 1.2 ** np.arange(T)[::-1]},
    "made by training, four decades": read_at_the_end(np.where(steps < 40, 1.0, 1.17)),
    "overflows": read_at_the_end(1.9, 120),
}
CLEAN = {
    "kept": read_at_the_end(1.0),
    "a factor of ten": read_at_the_end(10 ** (1 / T)),
    "made by training, two and a half decades": read_at_the_end(np.where(steps < 40, 1.0, 1.1)),
    "two decades that heal after a third": read_at_the_end(np.where(steps < 33, 1.1, 1.0)),
    "three odd steps": read_at_the_end(np.where(steps % 40 == 30, 1.3, 1.0)),
    "fades": read_at_the_end(0.5),
    "a loss at every step, kept": both(everywhere(1.0, 100)),
    "a loss at every step of a loop, kept": {"state_grad h": everywhere(1.0, 200)[0]},
    "one position": {"state_grad h_l0": jump, "state_grad h_l0.carried": np.r_[jump[:-1], 0.0]},
    "nine steps of ten": read_at_the_end(1.3, 11),
}


@pytest.mark.parametrize("values", BROKEN.values(), ids=BROKEN)
def test_a_gradient_that_grows_along_the_sequence_is_found(values):
    (finding,) = ExplodingThroughTime().check(trace(values, mode="" if "state_grad h" in values else "RNN_RELU"))
    assert finding.measured >= finding.threshold
    assert finding.module == "rnn"


@pytest.mark.parametrize(
    ("gain", "moved", "found"),
    [(1.2, 30.0, [Severity.ERROR]), (1.15, 30.0, [Severity.WARNING]), (1.1, 30.0, []), (1.2, 0.01, [])],
)
def test_an_explosion_counts_though_the_step_that_it_makes_ends_it(gain, moved, found):
    """It is there in the first step alone, three decades and more; then the weights are others."""
    values = read_at_the_end(np.where(steps < 1, gain, 1.0))
    weights = {"weight weight_hh_l0": np.ones((100, 1)), "weight_update weight_hh_l0": moved * np.ones((100, 1))}
    findings = list(ExplodingThroughTime().check(trace(values | weights, mode="RNN_RELU")))
    assert [(f.first_step, f.last_step, f.severity) for f in findings] == [(0, 0, severity) for severity in found]


@pytest.mark.parametrize(("begun", "first"), [(1.07, 0), (1.01, 3)])
def test_it_begins_where_it_was_large_right_before(begun, first):
    """1.5 decades in the steps that lead to four of them are its beginning, a quarter of a decade is not."""
    values = read_at_the_end(np.where(steps < 3, begun, 1.2))
    (finding,) = ExplodingThroughTime().check(trace(values, mode="RNN_RELU"))
    assert finding.first_step == first


@pytest.mark.parametrize("values", CLEAN.values(), ids=CLEAN)
def test_what_keeps_its_gradient_is_clean(values):
    assert list(ExplodingThroughTime().check(trace(values, mode="" if "state_grad h" in values else "RNN_RELU"))) == []


@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_a_factor_on_the_loss_changes_nothing(factor):
    (plain,) = ExplodingThroughTime().check(trace(read_at_the_end(1.2)))
    (scaled,) = ExplodingThroughTime().check(trace({k: factor * v for k, v in read_at_the_end(1.2).items()}))
    assert scaled.measured == pytest.approx(plain.measured, rel=1e-4)
    assert (scaled.severity, scaled.time) == (plain.severity, plain.time)


def test_severity_grows_with_the_decades():
    severities = [next(ExplodingThroughTime().check(trace(read_at_the_end(g)))).severity for g in (1.1, 1.3)]
    assert severities == [Severity.WARNING, Severity.ERROR]


def test_it_tells_how_fast_and_where():
    (finding,) = ExplodingThroughTime().check(trace(read_at_the_end(1.2)))
    assert "grows by 1.2 per time step, by 4.7 decades over a lag of 59, in steps 0 to 99" in finding.message
    assert finding.time == 34  # a hundredfold after 25 steps back from position 59


def test_the_reverse_direction_is_told_in_its_own_sense():
    (finding,) = ExplodingThroughTime().check(trace(read_at_the_end(1.2, suffix="l0_reverse")))
    assert finding.time == 25


def test_one_finding_for_a_module_names_its_worst_layer():
    layers = read_at_the_end(1.2, suffix="l0") | read_at_the_end(1.4, suffix="l1")
    (finding,) = ExplodingThroughTime().check(trace(layers))
    assert "rnn l1 grows by 1.4" in finding.message
    assert "likewise in 1 other layer or direction" in finding.message


def test_the_matrix_is_named_and_how_to_shrink_it():
    values = read_at_the_end(1.2) | {"state h_l0": np.ones(T), "total_norm raw": [5e4]}
    found = trace(values, mode="RNN_RELU", spectrum=(1.25, 1.3))
    (finding,) = ExplodingThroughTime().check(found)
    assert "a spectral radius of 1.2 and a largest singular value of 1.3 (above 1, which is necessary" in finding.cause
    assert "100% of the ReLU's units are active" in finding.cause
    assert finding.remedy.startswith("Divide rnn.weight_hh_l0 by 1.2, or draw it orthogonal; clip the gradient's norm")
    assert "at 1 to begin with (its median is now 50000)" in finding.remedy


def test_it_clips_at_the_usual_norm_of_the_other_steps():
    sick = steps >= 40
    values = read_at_the_end(np.where(sick, 1.3, 1.0)) | {"total_norm raw": np.where(sick, 5e4, 3.0)}
    values["gate forget_l0"] = np.full(T, 0.9)
    (finding,) = ExplodingThroughTime().check(trace(values, mode="LSTM", spectrum=(3.0, 4.0)))
    assert "clip the gradient's norm at 3, its median in the steps that do not explode" in finding.remedy
    assert "of the gates' recurrent matrices, one has a spectral radius of 3" in finding.cause.lower()


def test_what_is_too_short_cannot_be_judged():
    with pytest.raises(NotJudged, match="needs a gradient that can travel 10 time steps"):
        list(ExplodingThroughTime().check(trace(read_at_the_end(3.0, 9))))


@pytest.mark.parametrize(("scale", "sick"), [(1.2, True), (1.0, False)])
def test_a_rectified_identity(scale, sick):
    torch.manual_seed(0)
    rnn = nn.RNN(4, 32, nonlinearity="relu")
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(scale * torch.eye(32))
        rnn.weight_ih_l0.abs_()
        for bias in (rnn.bias_hh_l0, rnn.bias_ih_l0):
            bias.zero_()
    optimizer = torch.optim.SGD(rnn.parameters(), lr=1e-12)
    with gradscope.attach(rnn, optimizer=optimizer) as scope:
        for _ in range(5):
            optimizer.zero_grad()
            rnn(torch.rand(60, 8, 4))[0][-1].mean().backward()
            optimizer.step()
    found = list(ExplodingThroughTime().check(scope.trace))
    assert bool(found) == sick
    if sick:
        assert found[0].severity is Severity.ERROR
        assert "spectral radius of 1.2" in found[0].cause


def test_who_clips_already_is_not_told_to_clip():
    values = read_at_the_end(1.3) | {"total_norm raw": 5e4, "total_norm applied": 1.0}
    (finding,) = ExplodingThroughTime().check(trace(values, spectrum=(1.2, 1.3)))
    assert finding.remedy.endswith("the clip that is in place keeps the run alive, the direction is still that of the"
                                   " first time steps.")  # fmt: skip

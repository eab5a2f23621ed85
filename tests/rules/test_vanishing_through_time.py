import json

import numpy as np
import pytest
import torch
from builders import read_at_the_end, recurrent_trace
from torch import nn

import gradscope
from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.vanishing_through_time import VanishingThroughTime

NAN = np.nan
T = 60
rng = np.random.default_rng(0)
steps = np.arange(100)[:, None]


def trace(values, **more):
    return recurrent_trace(values, **({"steps": 100} | more))


def everywhere(gain, length=T):
    """A loss at every step, the same at each: what is carried adds little to it."""
    total = np.ones(length)
    carried = np.r_[gain * total[1:], 0.0]
    return {"state_grad h_l0": total, "state_grad h_l0.carried": carried}


def noisy(values, decades):
    """The same up to a factor at each position and step, one and the same for the parts."""
    noise = 10 ** rng.normal(0, decades, (100, np.shape(values["state_grad h_l0"])[-1]))
    return {key: v * noise for key, v in values.items()}


def loop(gain, length=T):
    return {"state_grad h": gain ** np.arange(length)[::-1]}


hold = np.where(np.arange(T) == 20, 1e-8, 1.0)  # one position passes on nothing, all others everything
one_gate = np.r_[np.full(21, 1e-8), np.ones(T - 21)]

BROKEN = {
    "half at each of sixty steps": read_at_the_end(0.5),
    "torch's default gates": read_at_the_end(0.63),
    "0.85 over a hundred": read_at_the_end(0.85, 100),
    "with noise": noisy(read_at_the_end(0.5), 0.3),
    "nothing comes back at all": read_at_the_end(1e-30, 40),
    "in the reverse direction": read_at_the_end(0.5, suffix="l0_reverse"),
    "a loop over a cell": loop(0.5),
    "within a window of a hundred": read_at_the_end(0.6, 100) | {"state h0_l0": 0.5},
    "since a third of the run": read_at_the_end(np.where(steps < 30, 1.0, 0.5)),
}
CLEAN = {
    "kept": read_at_the_end(1.0),
    "kept, with noise": noisy(read_at_the_end(1.0), 0.3),
    "two decades over the sequence": read_at_the_end(10 ** (-2 / T)),
    "a loss at every step": everywhere(0.3),
    "a loss at every step of a loop": {"state_grad h": np.ones(T)},
    "half at each of sixteen": read_at_the_end(0.5, 17),
    "a window of twelve, cut": read_at_the_end(0.5, 12) | {"state h0_l0": 0.5},
    "heals after forty of a hundred": read_at_the_end(np.where(steps < 40, 0.5, 1.0)),
    "three odd steps": read_at_the_end(np.where(steps % 40 == 3, 0.5, 1.0)),
    "one position passes nothing on": {
        "state_grad h_l0": one_gate,
        "state_grad h_l0.carried": np.r_[one_gate[:-1], 0.0],
    },
    "grows": read_at_the_end(1.2),
}


@pytest.mark.parametrize("values", BROKEN.values(), ids=BROKEN)
def test_a_gradient_that_fades_along_the_sequence_is_found(values):
    (finding,) = VanishingThroughTime().check(trace(values, mode="" if "state_grad h" in values else "RNN_TANH"))
    assert finding.measured >= finding.threshold
    assert finding.severity.reaches(Severity.WARNING)
    assert finding.module == "rnn"
    assert json.dumps(finding.to_dict())


@pytest.mark.parametrize("values", CLEAN.values(), ids=CLEAN)
def test_what_keeps_its_gradient_is_clean(values):
    assert list(VanishingThroughTime().check(trace(values, mode="" if "state_grad h" in values else "RNN_TANH"))) == []


@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_a_factor_on_the_loss_changes_nothing(factor):
    (plain,) = VanishingThroughTime().check(trace(read_at_the_end(0.6), loss=1.0))
    scaled = {key: factor * np.asarray(v) for key, v in read_at_the_end(0.6).items()}
    (found,) = VanishingThroughTime().check(trace(scaled, loss=factor))
    assert found.measured == pytest.approx(plain.measured, rel=1e-4)
    assert (found.severity, found.time) == (plain.severity, plain.time)


def test_it_tells_how_far_the_gradient_gets():
    (finding,) = VanishingThroughTime().check(trace(read_at_the_end(0.5)))
    assert finding.time == 49  # 0.5¹⁰ is still more than a thousandth
    assert "keeps 0.5 per time step: positions 0 to 49 of 60 get less than 0.001" in finding.message
    assert (finding.first_step, finding.last_step) == (0, 99)
    assert finding.measured == pytest.approx(30 * np.log10(2), rel=1e-3)  # of position 29, the last of the half


def test_the_reverse_direction_is_told_in_its_own_sense():
    (finding,) = VanishingThroughTime().check(trace(read_at_the_end(0.5, suffix="l0_reverse")))
    assert finding.time == 10
    assert "l0_reverse keeps 0.5 per time step: positions 10 to 59 of 60" in finding.message
    assert "the last half at most 10^−9.0 of it" in finding.message


def test_one_finding_for_a_module_names_its_worst_layer():
    layers = read_at_the_end(0.75, suffix="l0") | read_at_the_end(0.5, suffix="l1") | read_at_the_end(1.0, suffix="l2")
    (finding,) = VanishingThroughTime().check(trace(layers))
    assert "rnn l1 keeps 0.5" in finding.message
    assert "likewise in 1 other layer or direction" in finding.message
    assert {site.name for site in finding.sites} == {f"h_l{i}{part}" for i in (0, 1) for part in ("", ".carried")}


@pytest.mark.parametrize(
    ("values", "more", "severity"),
    [
        (read_at_the_end(0.5), {}, Severity.ERROR),
        (read_at_the_end(0.78), {}, Severity.WARNING),
        (read_at_the_end(0.5), {"steps": 30}, Severity.WARNING),
        (read_at_the_end(0.5), {"loss": np.linspace(1, 0.9, 100)}, Severity.ERROR),
        (read_at_the_end(0.5), {"loss": np.where(np.arange(100) < 4, 1.0, 0.17)}, Severity.WARNING),
        (read_at_the_end(0.5), {"loss": np.geomspace(1, 0.05, 100)}, Severity.INFO),
        (read_at_the_end(0.3), {"loss": np.geomspace(1, 0.05, 100)}, Severity.WARNING),
        (read_at_the_end(0.5), {"loss": np.linspace(1, 0.75, 100)}, Severity.WARNING),
        (read_at_the_end(0.5), {"loss": NAN}, Severity.ERROR),
    ],
    ids=[
        "nine decades",
        "three",
        "too early to tell",
        "learns nothing",
        "learns the mean",
        "learns",
        "learns what it can with a layer that cannot keep",
        "is at its best from the start",
        "unknown",
    ],
)
def test_severity_follows_what_is_learned(values, more, severity):
    (finding,) = VanishingThroughTime().check(trace(values, every=2, **more))
    assert finding.severity is severity


@pytest.mark.parametrize(("count", "severity"), [(100, Severity.INFO), (90, Severity.WARNING)])
def test_a_hundred_steps_are_a_hundred(count, severity):
    values, loss = read_at_the_end(0.7), np.geomspace(1, 0.05, count)
    (finding,) = VanishingThroughTime().check(trace(values, steps=count, loss=loss))
    assert finding.severity is severity


@pytest.mark.parametrize(("last", "severity"), [(0.6, Severity.INFO), (0.95, Severity.WARNING)])
def test_what_training_brings_about_while_it_learns_is_only_noted(last, severity):
    gains = np.where(steps < 40, 0.9, 0.5)
    (finding,) = VanishingThroughTime().check(trace(read_at_the_end(gains, 30), loss=np.linspace(1, last, 100)))
    assert (finding.first_step, finding.severity) == (40, severity)


def test_gates_that_are_closed_are_no_choice_of_the_training():
    learned = {"loss": np.geomspace(1, 0.05, 100), "every": 2, "mode": "LSTM"}
    for opened, severity in ((0.007, Severity.WARNING), (0.5, Severity.INFO)):
        values = read_at_the_end(0.5) | {"gate forget_l0": np.full(T, opened)}
        (finding,) = VanishingThroughTime().check(trace(values, **learned))
        assert finding.severity is severity


def test_closed_forget_gates_are_named_with_the_bias_that_opens_them():
    values = read_at_the_end(0.01) | {"gate forget_l0": np.full(T, 0.007)}
    (finding,) = VanishingThroughTime().check(trace(values, mode="LSTM"))
    assert finding.cause == "The forget gates average 0.007, a time constant of 0.2 steps against a lag of 59."
    bias = float(np.log(np.exp(-1 / 59) / (1 - np.exp(-1 / 59))))
    assert f"a forget bias of {bias:.1f} (the second quarter of rnn.bias_hh_l0)" in finding.remedy
    assert "a time constant of 59 steps" in finding.remedy


def test_gates_that_are_open_are_not_told_to_open():
    values = read_at_the_end(0.5) | {"gate forget_l0": np.full(T, 0.9999)}
    (finding,) = VanishingThroughTime().check(trace(values, mode="LSTM"))
    assert finding.cause.startswith("Not the forget gates: they average 1, open enough for a lag of 59.")
    assert finding.remedy.startswith("Bring the gates and the state of rnn l0 off their bounds")


def test_the_update_gates_of_a_gru_are_named():
    values = read_at_the_end(0.5) | {"gate update_l0": np.full(T, 0.5)}
    (finding,) = VanishingThroughTime().check(trace(values, mode="GRU"))
    assert finding.cause.startswith("The update gates average 0.5, a time constant of 1.4 steps")
    assert "an update bias of 4.1 (the second third of rnn.bias_hh_l0)" in finding.remedy


@pytest.mark.parametrize(
    ("mode", "state", "cause", "remedy"),
    [
        ("RNN_TANH", 0.1, "sufficient for vanishing: Pascanu et al. 2013", "orthogonal (nn.init.orthogonal_), or mult"),
        ("RNN_TANH", 0.95, "the mean slope of the tanh is 0.098, since the states lie near", "Bring the states off"),
        ("RNN_RELU", 1.0, "100% of the ReLU's units are active", "Start rnn.weight_hh_l0 as the identity"),
    ],
)
def test_the_matrix_and_the_slope_of_a_plain_rnn_are_named(mode, state, cause, remedy):
    values = read_at_the_end(0.5) | {"state h_l0": np.full(T, state)}
    (finding,) = VanishingThroughTime().check(trace(values, mode=mode, spectrum=(0.5, 0.6)))
    assert "a spectral radius of 0.5 and a largest singular value of 0.6" in finding.cause
    assert cause in finding.cause
    assert remedy in finding.remedy


@pytest.mark.parametrize("values", [read_at_the_end(0.1, 9), {"state_grad h_l0": np.zeros(T)}], ids=["short", "none"])
def test_what_is_too_short_cannot_be_judged(values):
    with pytest.raises(NotJudged, match="needs a gradient that can travel 10 time steps"):
        list(VanishingThroughTime().check(trace(values)))


def test_gradients_that_are_not_finite_cannot_be_judged():
    with pytest.raises(NotJudged, match="needs a finite gradient in the first half"):
        list(VanishingThroughTime().check(trace(read_at_the_end(0.5), nonfinite=np.arange(T) < 40)))


def trained(core, r=None, *, steps=110, length=60, read=lambda y: y[:, -1]):
    """What the rule says of a small recurrent net after `steps` steps of Adam; whether its weights get a gradient."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": core, "head": nn.Linear(32, 4)})
    if r is not None:
        nn.init.orthogonal_(core.weight_hh_l0, r)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradscope.attach(model, optimizer=optimizer, every=4) as scope:
        for _ in range(steps):
            optimizer.zero_grad()
            answer = model["head"](read(core(torch.randn(16, length, 4))[0]))
            target = torch.randint(4, answer.shape[:-1])
            nn.functional.cross_entropy(answer.flatten(0, -2), target.flatten()).backward()
            optimizer.step()
    healthy = all(
        scope.trace.series("rnn", "weight_grad", "l2_norm", name=name).min() > 1e-3
        for name in ("weight_ih_l0", "weight_hh_l0")
    )
    return list(VanishingThroughTime().check(scope.trace)), healthy


def rnn(**more):
    return nn.RNN(4, 32, batch_first=True, **more)


def test_an_rnn_that_halves_is_found_though_the_gradients_of_its_weights_look_healthy():
    (finding,), healthy = trained(rnn(), 0.5)
    assert healthy
    assert finding.severity is Severity.ERROR
    assert finding.module == "rnn"
    assert "sufficient for vanishing" in finding.cause


@pytest.mark.parametrize(
    ("build", "r", "options"),
    [
        (rnn, 1.0, {}),
        (rnn, 0.5, {"read": lambda y: y}),
        (rnn, 0.5, {"read": lambda y: y.mean(1)}),
        (rnn, 0.5, {"length": 12}),
    ],
    ids=["kept", "a tagger", "mean over time", "short"],
)
def test_healthy_nets_are_clean(build, r, options):
    found, _ = trained(build(), r, **options)
    assert found == []


class Iterated(nn.Module):
    """h ← tanh(W h + u), with one u for all calls, or another for each."""

    def __init__(self, parts):
        super().__init__()
        self.drive, self.w, self.parts = nn.Linear(4, 32), nn.Parameter(0.4 * torch.randn(32, 32) / 32**0.5), parts

    def forward(self, x):
        drive, h = self.drive(x if self.parts else x[:, -1]), torch.zeros(len(x), 32)
        for t in range(x.shape[1]):
            h = torch.tanh((drive[:, t] if self.parts else drive) + h @ self.w)
        return h


@pytest.mark.parametrize("parts", [True, False])
def test_a_search_for_a_fixed_point_may_forget_where_it_began(parts):
    torch.manual_seed(0)
    model = nn.Sequential(Iterated(parts), nn.Linear(32, 1))
    with gradscope.attach(model) as scope:
        for _ in range(4):
            model(torch.randn(8, 30, 4)).square().sum().backward()
            scope.step()
    assert [f.module for f in VanishingThroughTime().check(scope.trace)] == ["0"] * parts

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.forward_variance_explosion import ForwardVarianceExplosion

D = 10


def trace(std, grad=None, rms=0.45):
    std = np.asarray(std, dtype=float)
    more = {} if grad is None else {"output_grad_l2_norm": grad}
    return trace_of(steps=20, numel=400, weight_rms=np.full(std.shape[-1], rms), output_std=std, **more)


def along(gain, layers=D):
    return gain ** np.arange(layers)


late = np.arange(20)[:, None] >= 10
BROKEN = {
    "twice the He scale": trace(along(2.0)),
    "hidden by a bounded activation": trace(np.ones(D), grad=along(1.5)[::-1], rms=0.9),
    "slower, and back as fast as a gradient explodes": trace(along(1.5), grad=along(1.7)[::-1]),
    "at first both ways, then only back": trace(np.where(late, 1.0, along(1.5)), grad=along(1.7)[::-1]),
    "then diverged": trace(np.where(np.arange(20)[:, None] < 2, along(4.0), np.nan)),
}
CLEAN = {
    "kept": trace(np.ones(D)),
    "slower, and back no steeper": trace(along(1.5), grad=along(1.5)[::-1], rms=0.22),
    "made larger by learning": trace(np.where(late, along(2.0, 7), 1.0)),
    "steeper gradient, weights as asked": trace(np.ones(D), grad=along(1.5)[::-1], rms=0.22),
    "biases that differ, over tiny weights": trace(along(2.0), rms=0.001),
    "one large layer": trace(np.r_[np.ones(5), np.full(5, 1e4)]),
}


@pytest.mark.parametrize("found", BROKEN.values(), ids=BROKEN)
def test_a_signal_that_grows_layer_by_layer_is_found(found):
    (finding,) = ForwardVarianceExplosion().check(found)
    assert finding.measured >= finding.threshold
    assert finding.module == "0"


early = np.arange(20)[:, None] < 10
GRAVE = {
    "begun with, 2.7 decades": (trace(along(2.0)), Severity.ERROR),
    "begun with, 1.8 decades": (trace(along(2.0, 7)), Severity.WARNING),
    "begun with and healed": (trace(np.where(early, along(2.0), 1.0)), Severity.WARNING),
    "made by training, 3.6 decades": (trace(np.where(late, along(2.5), 1.0)), Severity.WARNING),
    "made by training, 5.4 decades": (trace(np.where(late, along(4.0), 1.0)), Severity.ERROR),
}


@pytest.mark.parametrize(("found", "severity"), GRAVE.values(), ids=GRAVE)
def test_what_a_run_begins_with_and_keeps_is_graver_than_what_training_has_made(found, severity):
    (finding,) = ForwardVarianceExplosion().check(found)
    assert finding.severity is severity


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_a_signal_that_keeps_its_size_is_clean(found):
    assert list(ForwardVarianceExplosion().check(found)) == []


def cut_off(rms, share):
    return trace_of(
        types=["Linear", "Tanh"] * 4 + ["Linear"],
        numel=400,
        weight_rms=[rms, np.nan] * 4 + [0.2],
        output_std=np.ones(9),
        output_saturated_fraction=[np.nan, share] * 4 + [np.nan],
    )


def test_growth_that_a_bounded_activation_cuts_off_in_every_layer_is_found():
    (finding,) = ForwardVarianceExplosion().check(cut_off(rms=1.0, share=0.8))
    assert finding.measured == pytest.approx(np.sqrt(20), rel=1e-5)
    assert "80% of the outputs are at a bound" in finding.message


@pytest.mark.parametrize(("rms", "share"), [(0.22, 0.8), (1.0, 0.2)], ids=["weights as asked", "still steep"])
def test_neither_large_weights_nor_saturation_alone_is_growth(rms, share):
    assert list(ForwardVarianceExplosion().check(cut_off(rms, share))) == []


def test_what_multiplies_beside_the_weights_is_looked_for_where_they_cannot_have_made_the_growth():
    (finding,) = ForwardVarianceExplosion().check(trace(along(8.0), rms=0.2))
    assert "what multiplies the signal by 8 per layer beside the weights" in finding.remedy


def test_the_remedy_gives_the_std_that_keeps_the_spread():
    (finding,) = ForwardVarianceExplosion().check(trace(along(4.0), rms=0.9))
    assert "has an rms of 0.9, a std of 0.22" in finding.remedy
    assert finding.severity is Severity.ERROR


def test_three_layers_are_too_few_to_judge():
    with pytest.raises(NotJudged, match="the trace has 3"):
        list(ForwardVarianceExplosion().check(trace(along(9.0, 3))))


def behind_sound_layers(rms):
    std = np.r_[0.5, 0.45, 0.45 * along(3.0, D - 2)]
    return trace_of(steps=20, numel=400, weight_rms=rms, output_std=std)


PLACES = {
    "the first with weights so large": (np.where(np.arange(D) < 3, 0.22, 0.7), "3", "3 has an rms of 0.7"),
    "the first that returns more, weights as they may be": (np.where(np.arange(D) < 3, 0.2, 0.24), "3", ""),
    "the first of all": (np.full(D, 0.7), "1", "2 has an rms of 0.7"),
}


@pytest.mark.parametrize(("rms", "module", "remedy"), PLACES.values(), ids=PLACES)
def test_the_first_layer_that_makes_its_signal_larger_is_named(rms, module, remedy):
    """The rise begins at 1, the last of the sound layers where those behind are to blame."""
    (finding,) = ForwardVarianceExplosion().check(behind_sound_layers(rms))
    assert finding.module == module
    assert remedy in finding.remedy
    assert (f"{module} is the first that makes its signal larger" in finding.cause) == (module != "1")

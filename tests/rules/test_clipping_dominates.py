from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.clipping_dominates import ClippingDominates, scales_all_alike

RAW = np.abs(np.random.default_rng(0).normal(3.0, 1.0, 40)) + 0.1


def trace(raw, applied, optimizer="SGD", applied_rms=1e-3):
    found = trace_of(
        total_norm_l2_norm=np.stack([raw, applied], axis=1),
        applied_grad_rms=np.full(2, applied_rms),
        weight_grad_rms=np.ones(2),
        meta={"optimizers": [{"type": optimizer, "eps": 1e-8}]},
    )
    names = iter(["raw", "applied"])
    sites = tuple(
        replace(site, module="", name=next(names)) if site.quantity == "total_norm" else site for site in found.sites
    )
    return replace(found, sites=sites)


CLEAN = {
    "no clipping": trace(RAW, RAW),
    "now and then": trace(RAW, np.minimum(RAW, 4.0)),
    "always, by a little": trace(RAW, np.minimum(RAW, 0.1 + 0 * RAW) * 20),
    "a loss scale": trace(1000 * RAW, RAW),
    "a loss scale, and clipping now and then": trace(1000 * RAW, np.minimum(RAW, 4.0)),
    "a loss scale that changes": trace(2.0 ** np.linspace(10, 18, 40).round() * RAW, RAW),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_clipping_that_catches_the_rare_large_gradient_is_clean(found):
    assert list(ClippingDominates().check(found)) == []


def test_a_threshold_far_below_every_gradient_is_found():
    (finding,) = ClippingDominates().check(trace(RAW, np.full(40, 0.01)))
    assert finding.severity is Severity.WARNING
    assert finding.measured == pytest.approx(np.median(RAW / 0.01), rel=1e-5)
    assert f"Clip at {np.percentile(RAW, 90):.2g}" in finding.remedy


@pytest.mark.parametrize(
    ("rms", "severity"), [(1e-4, Severity.INFO), (1e-8, Severity.WARNING)], ids=["far above eps", "at eps"]
)
def test_an_optimizer_that_normalises_forgives_it_down_to_its_eps(rms, severity):
    (finding,) = ClippingDominates().check(trace(RAW, np.full(40, 0.01), "Adam", rms))
    assert finding.severity is severity


@pytest.mark.parametrize(
    ("ratio", "severity"),
    [(1e-5, Severity.ERROR), (5e-4, Severity.WARNING), (5e-3, Severity.INFO)],
    ids=["nothing moves", "slower than it could", "the step that was wanted"],
)
def test_severity_follows_the_steps_that_are_left(ratio, severity):
    """Without clipping, which divides by 300, the last would be 1.5 times the weight, the second 0.15."""
    found = trace_of(
        total_norm_l2_norm=np.stack([RAW, np.full(40, 0.01)], axis=1),
        weight_l2_norm=np.ones(2),
        weight_grad_l2_norm=np.ones(2),
        weight_update_l2_norm=np.array([ratio, ratio / 10]),
    )
    names = iter(["raw", "applied"])
    sites = tuple(
        replace(site, module="", name=next(names)) if site.quantity == "total_norm" else site for site in found.sites
    )
    (finding,) = ClippingDominates().check(replace(found, sites=sites))
    assert finding.severity is severity
    assert f"The weight that moves most does so by {ratio:g} of its norm in the median step" in finding.cause


@pytest.mark.parametrize(
    ("limit", "end", "severity"),
    [(0.001, 0.95, Severity.WARNING), (0.001, 0.5, Severity.INFO), (0.1, 0.95, Severity.INFO)],
    ids=["the loss stays", "the loss falls", "by a smaller factor"],
)
def test_a_clip_by_thousands_is_excused_only_where_the_loss_comes_down(limit, end, severity):
    found = trace_of(
        total_norm_l2_norm=np.stack([RAW, np.full(40, limit)], axis=1),
        weight_l2_norm=np.ones(2),
        weight_grad_l2_norm=np.ones(2),
        weight_update_l2_norm=np.array([2e-2, 1e-3]),
        loss=np.linspace(1, end, 40),
    )
    names = iter(["raw", "applied"])
    sites = tuple(
        replace(site, module="", name=next(names)) if site.quantity == "total_norm" else site for site in found.sites
    )
    (finding,) = ClippingDominates().check(replace(found, sites=sites))
    assert finding.severity is severity


def test_of_a_clip_by_parts_the_cosine_is_told():
    found = trace_of(
        total_norm_l2_norm=np.stack([RAW, 0.01 + 0.001 * RAW], axis=1),
        weight_grad_l2_norm=np.array([3.0, 4.0]),
        applied_grad_l2_norm=np.array([0.004, 0.003]),
        weight_l2_norm=np.ones(2),
    )
    names = iter(["raw", "applied"])
    sites = tuple(
        replace(site, module="", name=next(names)) if site.quantity == "total_norm" else site for site in found.sites
    )
    (finding,) = ClippingDominates().check(replace(found, sites=sites))
    assert "cosine with the gradient is at most 0.96" in finding.message  # 24 / 25


def test_four_steps_are_too_few_to_judge():
    with pytest.raises(NotJudged, match=r"needs 5 steps .* the trace has 4"):
        list(ClippingDominates().check(trace(RAW[:4], np.full(4, 0.01))))


@pytest.mark.parametrize(("applied", "said"), [((0.001, 0.002), "Clip at"), ((0.001, 0.0001), "Raise the limit")])
def test_the_remedy_fits_what_is_cut(applied, said):
    """By the total norm all parameters are cut by one factor; by value or one by one they are not."""
    found = trace_of(
        total_norm_l2_norm=np.stack([RAW, RAW / 500], axis=1),
        weight_grad_l2_norm=np.array([1.0, 2.0]),
        applied_grad_l2_norm=np.array(applied),
        weight_l2_norm=np.ones(2),
    )
    names = iter(["raw", "applied"])
    sites = tuple(
        replace(site, module="", name=next(names)) if site.quantity == "total_norm" else site for site in found.sites
    )
    applied_total = found.statistics["l2_norm"].copy()
    applied_total[:, 1] = 0.01 + 0.001 * RAW  # not one factor in all steps: that would be a loss scale
    (finding,) = ClippingDominates().check(
        replace(found, sites=sites, statistics={**found.statistics, "l2_norm": applied_total})
    )
    assert finding.remedy.startswith(said)


@pytest.mark.parametrize("uneven", [0.0, 0.001, 0.5])
def test_a_clip_by_the_norm_is_told_from_one_of_single_parameters_step_by_step(uneven):
    rng = np.random.default_rng(0)
    raw = rng.uniform(1, 2, (30, 5))
    raw[rng.random(raw.shape) < 0.3] = 0.0
    applied = raw * 0.01 * np.exp(uneven * rng.normal(size=raw.shape))
    found = trace_of(weight_grad_l2_norm=raw, applied_grad_l2_norm=applied, weight_grad_rms=np.ones(5))
    spreads = []
    for before, after in zip(raw.astype(np.float32), applied.astype(np.float32), strict=True):
        factors = [float(a) / float(b) for a, b in zip(after, before, strict=True) if a > 0 and b > 0]
        if len(factors) > 1:
            spreads.append(np.ptp(np.log(factors)))
    assert scales_all_alike(found, np.arange(30)) == (np.median(spreads) < 0.01)
    assert scales_all_alike(found, np.arange(30)) == (uneven < 0.01)


def test_without_a_parameter_or_a_gradient_nothing_says_that_they_are_cut_one_by_one():
    assert scales_all_alike(trace_of(output_rms=np.ones(2)), np.arange(3))
    zero = trace_of(weight_grad_l2_norm=np.zeros(3), applied_grad_l2_norm=np.zeros(3))
    assert scales_all_alike(zero, np.arange(10))


def late(begin, ratio):
    """Clipping to 0.01 from step `begin` on, which leaves updates of `ratio` times the weights."""
    applied = np.where(np.arange(40) < begin, RAW, 0.01)
    found = trace_of(
        total_norm_l2_norm=np.stack([RAW, applied], axis=1),
        weight_l2_norm=np.ones(2),
        weight_grad_l2_norm=np.ones(2),
        weight_update_l2_norm=np.where(np.arange(40) < begin, 1e-2, ratio)[:, None] * [1, 0.1],
    )
    names = iter(["raw", "applied"])
    sites = tuple(
        replace(site, module="", name=next(names)) if site.quantity == "total_norm" else site for site in found.sites
    )
    return replace(found, sites=sites)


def test_clipping_that_brings_the_rest_of_a_run_to_a_stop_is_found():
    (finding,) = ClippingDominates().check(late(20, 3e-5))
    assert (finding.severity, finding.first_step) == (Severity.ERROR, 20)
    assert finding.message.startswith("100% of the steps are clipped")


@pytest.mark.parametrize(("begin", "ratio"), [(30, 3e-5), (20, 1e-3), (20, 1e-7)])
def test_a_short_end_steps_that_go_on_and_a_rate_that_has_gone_are_no_fault_of_clipping(begin, ratio):
    found = list(ClippingDominates().check(late(begin, ratio)))
    assert all(finding.severity is Severity.INFO for finding in found)

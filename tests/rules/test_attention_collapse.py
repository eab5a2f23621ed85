import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.links import End, Link, Links, Side
from gradscope.rules.attention_collapse import AttentionCollapse

STEPS = 20
BEGIN_SHARP = np.full(STEPS, 0.02)
BECOMES_SHARP = np.r_[np.full(10, 0.9), np.full(10, 0.02)]
SUM = ("UnsqueezeBackward0", "MulBackward0", "SumBackward1")
FALLS, RISES = np.linspace(2, 0.2, STEPS), np.linspace(1, 2, STEPS)


def trace(
    entropy,
    *,
    module="attn",
    kind="MultiheadAttention",
    logit=40.0,
    weight=0.3,
    loss=1.0,
    after=("BmmBackward0",),
    values=(),
    passed=0.1,
):
    """Entropy of what attends, behind the layers `q` and `k`, whose weights of 16 by 16 have the rms `weight`."""
    modules = ["q", "k", module, "out"]
    links = Links()
    edges = [("q", module, ("BmmBackward0",)), ("k", module, ("BmmBackward0",)), (module, "out", after)]
    edges += [(one, "out", ("MulBackward0", "SumBackward1")) for one in values]
    for one, other, through in edges:
        links.add(Link(End(one, Side.RETURNED), End(other, Side.GIVEN), through), 0, 0)
    measured = np.full((STEPS, 4), np.nan)
    measured[:, 2] = entropy
    return trace_of(
        modules=modules,
        types=["Linear", "Linear", kind, "Linear"],
        output_rms=np.ones((STEPS, 4)),
        output_attention_entropy=measured,
        output_grad_l2_norm=np.tile([passed, passed, 0.1, 0.1], (STEPS, 1)),
        output_max_logit=np.where(np.isnan(measured), np.nan, logit),
        weight_rms=np.array([weight, weight, np.nan, 0.3]),
        loss=loss,
        numel=256,
        meta={"flow": links.to_list()},
    )


BROKEN = {
    "from the start": (trace(BEGIN_SHARP), "attn", Severity.ERROR),
    "not so sharp": (trace(np.full(STEPS, 0.12)), "attn", Severity.WARNING),
    "though the loss falls": (trace(BEGIN_SHARP, loss=FALLS), "attn", Severity.ERROR),
    "it becomes sharp and the loss rises": (trace(BECOMES_SHARP, loss=RISES), "attn", Severity.ERROR),
    "written out": (trace(BEGIN_SHARP, module="block.attn.softmax#0", kind="Softmax"), "block.attn", Severity.ERROR),
    "it becomes sharp and passes nothing back": (trace(BECOMES_SHARP, loss=FALLS, passed=0.0), "attn", Severity.ERROR),
    "a sum of products": (trace(BEGIN_SHARP, kind="Softmax", after=SUM, values=("v",)), "attn", Severity.ERROR),
    "large projections": (trace(BEGIN_SHARP, weight=5.0), "q", Severity.ERROR),
}
CLEAN = {
    "uniform": trace(np.full(STEPS, 1.0)),
    "as scaled dot products have it": trace(np.full(STEPS, 0.8)),
    "sharp by learning": trace(BECOMES_SHARP, loss=FALLS),
    "sharp from the beginning, and the task is learned": trace(BEGIN_SHARP, loss=np.geomspace(1.0, 1e-3, len(FALLS))),
    "it heals": trace(BECOMES_SHARP[::-1]),
    "a softmax over classes": trace(BEGIN_SHARP, kind="Softmax", after=("MulBackward0",)),
    "a softmax over experts": trace(BEGIN_SHARP, kind="Softmax", after=SUM, values=("expert.0", "expert.1")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_attention_that_begins_sharp_or_becomes_so_in_vain_is_found(name):
    given, module, severity = BROKEN[name]
    (finding,) = AttentionCollapse().check(given)
    assert (finding.module, finding.severity) == (module, severity)
    assert "with logits up to 40" in finding.message


@pytest.mark.parametrize("name", CLEAN)
def test_attention_that_sees_several_keys_or_learned_not_to_is_clean(name):
    try:
        found = list(AttentionCollapse().check(CLEAN[name]))
    except NotJudged:
        found = []
    assert found == []


def test_the_cause_names_the_weights_or_the_missing_root_of_the_width():
    (large,) = AttentionCollapse().check(BROKEN["large projections"][0])
    (unscaled,) = AttentionCollapse().check(BROKEN["from the start"][0])
    assert "the weight of q has 20 times the scale" in large.cause
    assert large.remedy == "Divide the weight of q by 13."
    assert "not divided by √d" in unscaled.cause
    assert "Divide the logits of attn by 13 more than now" in unscaled.remedy


def test_a_few_sharp_heads_among_others_are_clean():
    modules = ["attn"] * 4
    entropy = np.tile([0.01, 0.7, 0.8, 0.9], (STEPS, 1))
    given = trace_of(modules=modules, types="MultiheadAttention", output_attention_entropy=entropy)
    assert list(AttentionCollapse().check(given)) == []


def test_a_model_without_attention_is_no_concern_of_it():
    assert not AttentionCollapse().concerns(trace_of(output_rms=[1.0]))
    assert AttentionCollapse().concerns(trace(BEGIN_SHARP))


def test_two_steps_are_too_few():
    with pytest.raises(NotJudged, match="in 3 steps"):
        list(AttentionCollapse().check(trace_of(steps=2, output_attention_entropy=[0.01])))

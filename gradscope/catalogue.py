"""All pathologies that have a code, whether or not a rule looks for them yet: codes and names never change.

Settings may name a code today that only a later version judges.
"""

from typing import NamedTuple


class Pathology(NamedTuple):
    """One thing that can go wrong with a gradient.

    Attributes:
        code: "GS301"; the first digit is the family.
        name: "dead-units".
        meaning: Half a sentence.
    """

    code: str
    name: str
    meaning: str


PATHOLOGIES = (
    Pathology(
        "GS101", "vanishing-gradient", "the gradient decays with depth so far that the early part does not learn"
    ),
    Pathology("GS102", "exploding-gradient", "the gradient grows with depth, or is far too large for the step used"),
    Pathology("GS103", "no-gradient", "a trainable parameter never gets a gradient, because the path is cut"),
    Pathology("GS104", "zero-loss-gradient", "the loss itself hands back no gradient at the output"),
    Pathology("GS201", "vanishing-through-time", "the gradient decays over the steps of a recurrence"),
    Pathology("GS202", "exploding-through-time", "the gradient grows over the steps of a recurrence"),
    Pathology("GS301", "dead-units", "units or channels are silent for every input"),
    Pathology("GS302", "saturation", "units of a bounded activation are stuck at a bound"),
    Pathology("GS303", "constant-output", "what a module gives does not depend on what it is given"),
    Pathology("GS304", "forward-variance-collapse", "the signal's spread decays with depth"),
    Pathology("GS305", "forward-variance-explosion", "the signal's spread grows with depth"),
    Pathology("GS306", "attention-collapse", "attention rests on one place, so that it hinders learning"),
    Pathology(
        "GS307", "rank-collapse", "what stands for different tokens, samples or units becomes the same direction"
    ),
    Pathology("GS401", "non-finite", "NaN or Inf is made, in the forward or the backward pass"),
    Pathology("GS402", "low-precision-underflow", "gradients or updates are lost below the range of fp16 or bf16"),
    Pathology("GS403", "low-precision-overflow", "values leave the range of fp16 or bf16"),
    Pathology("GS501", "update-too-small", "the optimizer's steps are too small for the weights to move"),
    Pathology("GS502", "update-too-large", "the optimizer's steps replace what the weights had learned"),
    Pathology("GS503", "clipping-dominates", "clipping sets the step almost always, by a large factor"),
    Pathology("GS504", "symmetric-init", "units start identical and stay so"),
    Pathology("GS505", "accumulating-gradient", "gradients of earlier steps are still there: zero_grad was forgotten"),
    Pathology("GS601", "loss-divergence", "the loss grows without end; told as an outcome, beside its cause"),
    Pathology("GS602", "loss-stall", "the loss does not fall; told as an outcome, beside its cause"),
)

EVERY_CODE = frozenset(one.code for one in PATHOLOGIES)

ALL = "ALL"  # as a selector: every rule, whatever its code


def reach(selector: str, code: str, name: str) -> int | None:
    """How closely `selector` names the rule with that code and name; None if it does not. The larger, the closer.

    A selector is the beginning of codes ("GS3"), a rule's name, or "ALL"; the length of the beginning counts, and a
    name says as much as the whole code.
    """
    if selector == ALL:
        return 0
    if selector == name:
        return len(code)
    return len(selector) if selector and code.startswith(selector) else None

"""What is measured, and where: the words that every other file speaks.

A probe emits a tensor at a `Site`; `statistics` reduces it to one row of `STATISTICS`; the trace keeps the rows. No
torch here: reading a trace must not cost the two seconds of importing it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Quantity(StrEnum):
    """What a site measures. Gradients are of the loss as the user computed it, unscaled where a scaler is attached."""

    INPUT = "input"  # what the attached model was given; depth 0
    OUTPUT = "output"  # y of a module
    INPUT_GRAD = "input_grad"  # ∂L/∂x, the whole gradient of the tensor that a module was given
    OUTPUT_GRAD = "output_grad"  # ∂L/∂y, the whole gradient of the tensor that a module returned
    STATE = "state"  # h_t and c_t inside a recurrent layer
    STATE_GRAD = "state_grad"  # ∂L/∂h_t and ∂L/∂c_t
    GATE = "gate"  # i, f, g, o of an LSTM; r, z, n of a GRU
    WEIGHT = "weight"  # a parameter as the step's forward pass used it
    WEIGHT_GRAD = "weight_grad"  # ∂L/∂w as backward left it, summed over the step's backward passes
    APPLIED_GRAD = "applied_grad"  # ∂L/∂w as the optimizer read it: reduced, unscaled, clipped
    WEIGHT_UPDATE = "weight_update"  # Δw of the step
    LOSS = "loss"
    TOTAL_NORM = "total_norm"  # ‖∂L/∂w‖₂ over all parameters; name "raw" or "applied"


PARAMETER_QUANTITIES = frozenset({Quantity.WEIGHT, Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD, Quantity.WEIGHT_UPDATE})
GRADIENT_QUANTITIES = frozenset(
    {Quantity.INPUT_GRAD, Quantity.OUTPUT_GRAD, Quantity.STATE_GRAD, Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD}
)


class Statistic(StrEnum):
    """One number about a tensor. All but the counts are over its finite elements; formulas are in `statistics`."""

    NUMEL = "numel"
    MEAN = "mean"
    STD = "std"
    RMS = "rms"
    L2_NORM = "l2_norm"
    ABS_MAX = "abs_max"
    MIN = "min"
    MAX = "max"
    ZERO_FRACTION = "zero_fraction"
    NONFINITE_COUNT = "nonfinite_count"
    DEAD_FRACTION = "dead_fraction"  # units of an activation that no sample of the recorded window activated
    SATURATED_FRACTION = "saturated_fraction"  # elements where a bounded activation's slope is under 5 % of its largest
    UNDERFLOW_FRACTION = "underflow_fraction"  # elements of a 16-bit float that are subnormal
    SYMMETRIC_FRACTION = "symmetric_fraction"  # rows of a weight that equal another; at records 0, 4, 8, 16, 32, …
    SPECTRAL_RADIUS = "spectral_radius"  # largest |eigenvalue| of the recurrent matrix of a state or gate; as above
    SPECTRAL_NORM = "spectral_norm"  # its largest singular value; as above
    ATTENTION_ENTROPY = "attention_entropy"  # mean over queries of H(p) / log(number of keys that the query may see)
    MAX_LOGIT = "max_logit"  # largest logit of attention before softmax, scaled, over pairs that no mask excludes
    SAMPLE_SPREAD = "sample_spread"  # of an output: √(Σ‖yᵢ − ȳ‖² / Σ‖yᵢ‖²) over samples i; 0: the input does not matter
    DIRECTION_SPREAD = "direction_spread"  # 1 − mean cosine between samples, or between the tokens of a sample
    CARRIED_FRACTION = "carried_fraction"  # ‖.grad‖ as the step's first backward found it over ‖.grad‖ after it


STATISTICS: tuple[Statistic, ...] = tuple(Statistic)
COLUMN: dict[str, int] = {statistic.value: index for index, statistic in enumerate(STATISTICS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One quantity of one module: what a column of a trace is about.

    Attributes:
        module: Name as in `named_modules()` of the attached model; "" is the model itself.
        module_type: Class name of that module.
        quantity: What is measured.
        name: The parameter's own name ("weight"), the path in a nested output ("logits", "1.0"), else "".
        depth: Order of first execution among the observed modules, the model's input being 0; −1 if never executed.
    """

    module: str
    module_type: str
    quantity: Quantity
    name: str = ""
    depth: int = -1

    def __str__(self) -> str:
        where = self.module or "(model)"
        if self.name:
            where += f".{self.name}" if self.quantity in PARAMETER_QUANTITIES else f"[{self.name}]"
        return f"{where}:{self.quantity.value}"


Key: TypeAlias = tuple[str, Quantity, str]  # module, quantity and name: what tells a site from all others


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to the recording itself: a probe that broke, a step that was skipped.

    Attributes:
        step: Step at which it happened.
        kind: "probe-failed", "not-observed", "step-skipped" or another short slug.
        module: Where; "" for the model as a whole.
        message: One sentence for the user.
    """

    step: int
    kind: str
    module: str = ""
    message: str = ""


# Kinds of events that belong to a healthy training: they limit nothing that a rule could say.
ORDINARY_EVENTS = frozenset({"step-skipped", "optimizer-replaced"})

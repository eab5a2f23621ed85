"""What the reports are tested on: a sick and a healthy network, recurrent ones, all side by side. Nothing is random."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from itertools import pairwise

import numpy as np
from builders import chain, links, trace_of
from rich.console import Console

from gradscope.findings import Diagnosis, Finding, Role, Severity, Unjudged
from gradscope.records import COLUMN, STATISTICS, Event, Quantity, Site
from gradscope.reports.comparison import ComparedRun, ComparedVariant, Comparison
from gradscope.trace import StepRecord, TimeTable, Trace, TraceBuilder, by_statistic

NUMEL = 64  # of each state
META = {
    "model": "MLP",
    "parameters": 12_345,
    "trainable": 12_345,
    "every": 1,
    "optimizers": [{"type": "Adam", "lr": 0.001}],
}


def network(gain: float, *, layers: int = 15, steps: int = 10, scale: float = 1e-2) -> Trace:
    """A chain whose gradient has `gain` per layer, with a falling loss."""
    depth = np.arange(layers)
    gradient = scale * gain ** depth[::-1] * np.ones((steps, 1))
    return trace_of(
        modules=[f"layers.{i}" for i in depth],
        output_grad_rms=gradient,
        output_rms=np.full((steps, layers), 0.5),
        loss=2.3 * 0.9 ** np.arange(steps) if gain > 0.4 else np.full(steps, 2.3),
        meta=META,
    )


def finding(**changes: object) -> Finding:
    """A vanishing gradient at layers.3, or what `changes` make of it."""
    values = {
        "code": "GS101",
        "pathology": "vanishing-gradient",
        "severity": Severity.ERROR,
        "module": "layers.3",
        "sites": (),
        "first_step": 0,
        "last_step": 9,
        "measured": 0.25,
        "threshold": 0.5,
        "unit": "gain per layer",
        "message": "each layer passes back 0.25 of its gradient, over 15 layers since step 0",
        "cause": "a sigmoid's slope is at most 0.25, and the weights do not make up for it",
        "remedy": "use ReLU with He initialisation, add residual connections, or normalise before each activation",
    }
    return Finding(**{**values, **changes})


SYMPTOMS = tuple(
    finding(
        code="GS302",
        pathology="saturation",
        severity=Severity.WARNING,
        module=f"layers.{i}",
        message="93 % of the units sit at a bound",
        role=Role.SYMPTOM,
        caused_by=("layers.3", "GS101"),
    )
    for i in range(5, 11)
)


def diagnosis(*findings: Finding, not_judged: Sequence[Unjudged] = ()) -> Diagnosis:
    """A diagnosis of ten steps and thirty sites."""
    return Diagnosis(findings=findings, not_judged=tuple(not_judged), steps=10, sites=30)


SICK = diagnosis(
    finding(),
    *SYMPTOMS,
    not_judged=[
        Unjudged(rule="update-too-small", reason="the trace holds no weight_update"),
        Unjudged(rule="update-too-large", reason="the trace holds no weight_update"),
        Unjudged(rule="symmetric-init", reason="the trace holds no weight"),
    ],
)
HEALTHY = diagnosis()


def variant(name: str, gain: float, said: Diagnosis, *, seeds: int = 1, **codes: frozenset[str]) -> ComparedVariant:
    """One line of the comparison, trained with `seeds` seeds that differ a little."""
    return ComparedVariant(
        name=name,
        runs=tuple(
            ComparedRun(
                seed=seed,
                trace=network(gain * (1 + 0.01 * seed)),
                diagnosis=said,
                loss_first=2.3,
                loss_last=2.3 if gain < 0.4 else 0.089,
                metrics={
                    "gain_per_layer": gain * (1 + 0.01 * seed),
                    "gradient_decades": -15 * np.log10(gain),
                    "saturated_fraction": 0.93 if gain < 0.4 else float("nan"),
                    "accuracy": 0.10 if gain < 0.4 else 0.95,
                },
            )
            for seed in range(seeds)
        ),
        **codes,
    )


def comparison(*, seeds: int = 1, variants: Sequence[ComparedVariant] | None = None) -> Comparison:
    """Sigmoid, tanh and ReLU, as expected."""
    return Comparison(
        name="sigmoid-vs-relu",
        question="Does a saturating activation starve the early layers of gradient?",
        lesson="Fifteen layers that each halve the gradient leave 0.5¹⁵ ≈ 0.0003 of it.",
        source="Glorot & Bengio 2010, §3.1",
        seeds=tuple(range(seeds)),
        units={"gain_per_layer": ".3f", "gradient_decades": ".1f", "saturated_fraction": ".0%", "accuracy": ".0%"},
        variants=variants
        or (
            variant("sigmoid", 0.25, SICK, seeds=seeds, expect=frozenset({"GS101"})),
            variant("tanh", 0.8, HEALTHY, seeds=seeds),
            variant("relu, He init", 0.98, HEALTHY, seeds=seeds, forbid=frozenset({"GS101", "GS102"})),
        ),
    )


def with_times(trace: Trace, rms: np.ndarray) -> Trace:
    """`trace` with rms[step, time] as the values per time of its first site."""
    steps, length = rms.shape
    values = np.full((steps * length, len(STATISTICS)), np.nan, dtype=np.float32)
    values[:, STATISTICS.index("rms")] = rms.ravel()
    values[:, STATISTICS.index("numel")] = 10
    values[:, STATISTICS.index("nonfinite_count")] = 0
    times = TimeTable(
        step=np.repeat(np.arange(steps, dtype=np.int32), length),
        site=np.zeros(steps * length, dtype=np.int32),
        time=np.tile(np.arange(length, dtype=np.int32), steps),
        statistics=by_statistic(values),
    )
    return replace(trace, times=times)


def printed(renderable: object, *, width: int = 80, ascii_only: bool = False) -> str:
    """What a terminal without colour would show."""
    stream = _Ascii() if ascii_only else StringIO()
    Console(file=stream, width=width, color_system=None, force_terminal=False, highlight=False).print(renderable)
    return stream.getvalue()


class _Ascii(StringIO):
    encoding = "ascii"


def recurrent(
    gain: float | Sequence[float] = 0.8,
    *,
    mode: str = "RNN_TANH",
    layers: Sequence[str] = ("l0",),
    steps: int = 10,
    length: int = 40,
    local: float = 0.0,
    window: int | None = None,
    meta: Mapping[str, object] | None = None,
    events: Sequence[Event] = (),
) -> Trace:
    """A recurrent layer as its probe records it; the loss, of gradient 0.01, reads the end of each sequence.

    Args:
        gain: Of the carried gradient per position, for all steps or for each.
        local: rms of what the loss or the layer above sends to each position.
        window: Positions after which the state is detached and handed on to another call.
    """
    rows = _Rows(steps)
    time = np.arange(length)
    ends = (time % (window or length) == (window or length) - 1) | (time == length - 1)
    for layer in layers:
        order = time if layer.endswith("reverse") else time[::-1]
        end = ends[::-1] if layer.endswith("reverse") else ends
        outside = np.where(end, 1e-2, local) * np.ones((steps, 1))
        carried = np.zeros((steps, length))
        whole = outside.copy()
        for before, t in pairwise(order):
            if not end[t]:
                carried[:, t] = np.asarray(gain) * whole[:, before]
                whole[:, t] = np.hypot(outside[:, t], carried[:, t])
        parts = {"h": 1.0} if mode != "LSTM" else {"h": 0.6, "c": 0.8}
        for state, share in parts.items():
            here = outside if state == "h" else 0 * outside
            rows.add(Quantity.STATE, f"{state}_{layer}", np.full((steps, length), 0.5))
            rows.add(Quantity.STATE_GRAD, f"{state}_{layer}", np.hypot(here, share * carried))
            rows.add(Quantity.STATE_GRAD, f"{state}_{layer}.local", here)
            rows.add(Quantity.STATE_GRAD, f"{state}_{layer}.carried", share * carried)
            starts = time % (window or length) == 0
            given = np.where(starts, np.where(time == 0, 0.0, 0.5), np.nan)
            rows.add(Quantity.STATE, f"{state}0_{layer}", np.tile(given if window else given[:1], (steps, 1)))
        if mode == "LSTM":
            rows.add(Quantity.GATE, f"forget_{layer}", np.full((steps, length), 0.9), mean=0.9)
    rows.spectrum = (0.9, 1.4)
    return rows.trace(mode, {**META, "model": "Tagger", **(meta or {})}, events)


class _Rows:
    """Sites with their values over time, on the way to a trace."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.sites: list[Site] = []
        self.rms: list[np.ndarray] = []
        self.means: list[float] = []
        self.spectrum = (np.nan, np.nan)

    def add(self, quantity: Quantity, name: str, rms: np.ndarray, mean: float = 0.0) -> None:
        self.sites.append(Site(module="rnn", module_type="RNN", quantity=quantity, name=name, depth=1))
        self.rms.append(rms)
        self.means.append(mean)

    def trace(self, mode: str, meta: Mapping[str, object], events: Sequence[Event]) -> Trace:
        builder = TraceBuilder()
        for step in range(self.steps):
            whole = np.full((len(self.sites), len(STATISTICS)), np.nan, dtype=np.float32)
            index, values = [], []
            for i, (site, rms) in enumerate(zip(self.sites, self.rms, strict=True)):
                known = np.flatnonzero(~np.isnan(rms[step]))
                table = np.full((len(known), len(STATISTICS)), np.nan, dtype=np.float32)
                size = rms[step, known]
                broken = np.isinf(size)
                table[:, COLUMN["rms"]] = np.where(broken, np.nan, size)
                table[:, COLUMN["l2_norm"]] = np.where(broken, np.nan, size) * np.sqrt(NUMEL)
                table[:, COLUMN["numel"]] = NUMEL
                table[:, COLUMN["mean"]] = self.means[i]
                table[:, COLUMN["nonfinite_count"]] = np.where(broken, NUMEL, 0)
                whole[i] = table.mean(axis=0)
                if site.quantity in (Quantity.STATE, Quantity.GATE) and "0" not in site.name[:2]:
                    whole[i, [COLUMN["spectral_radius"], COLUMN["spectral_norm"]]] = self.spectrum
                if rms.shape[1] > 1:
                    index.append(np.column_stack([np.full(len(known), i), known]))
                    values.append(table)
            builder.append(
                StepRecord(
                    step=step,
                    per_step={"loss": 1.0},
                    values=whole,
                    time_index=np.concatenate(index).astype(np.int32),
                    time_values=np.concatenate(values),
                ),
                self.sites,
                {},
            )
        return builder.finish(self.sites, {**meta, "recurrent": {"rnn": mode}}, events)


def sigmoid_chain() -> Trace:
    """Two blocks with a sigmoid each, which pass back a quarter; three decades are lost in all."""
    modules = ["stem", "blocks.0.fc", "blocks.0.act", "blocks.1.fc", "blocks.1.act", "head"]
    returned = [1e-4, 1e-3, 4e-3, 1e-2, 0.04, 0.1]
    return trace_of(
        steps=4,
        modules=modules,
        types=["Linear", "Linear", "Sigmoid", "Linear", "Sigmoid", "Linear"],
        output_grad_l2_norm=returned,
        input_grad_l2_norm=[float("nan"), *returned[:-1]],
        meta={"flow": links(*chain("in", *modules, "out")).to_list()},
    )

"""GS306: attention that looks at one key before it has learned which."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.flow import Flow, Vertex, flow_of
from gradscope.links import INPUT, Side
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.gain import Bools
from gradscope.rules.layers import Layer, learned_layers, relative_scale
from gradscope.rules.learning import norms
from gradscope.rules.losses import has_fallen
from gradscope.rules.persistence import Persistence, persistence
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True)
class AttentionCollapse(Rule):
    """Most heads of an attention look at a single key from the beginning on.

    What it means: softmax is flat there. Queries and keys get almost no gradient, so what attention looks at stays as
        chance has drawn it.
    How it is measured: attention_entropy, the mean over the queries of H(p)/log n with the n keys that a query may see;
        the median over the heads of a module, in the first records and still at the end.
    Why the threshold: normal logits of standard deviation 1, as scaled dot products have, leave 0.84 of the entropy
        over a dozen keys, of 3 they leave 0.41, of 6 they leave 0.2: √d too many, for heads of width 36. There softmax
        passes back p(1 − p) of p near one; at 0.05 almost nothing.
    What to try: logits divided by √d, smaller weights of queries and keys, a normalisation of both.
    How grave it is: an error below 0.05, else a warning.
    Where it stays silent: heads that become sharp by learning, while the loss falls and a gradient gets through; heads
        that are sharp from the beginning where the loss falls to a hundredth: they look where the task asks them to; a
        few sharp heads among others; uniform attention, which is how it begins; a softmax over classes, experts or
        channels, which weighs no values.
    Source: Zhai et al. 2023, Stabilizing Transformer Training by Preventing Attention Entropy Collapse; Vaswani et al.
        2017, section 3.2.1, for √d.
    """

    code = "GS306"
    name = "attention-collapse"
    reads = frozenset({Quantity.OUTPUT})

    max_entropy: float = 0.2
    error_entropy: float = 0.05
    min_steps: int = 3
    usual_logit: float = 3.0
    large_scale: float = 3.0
    learned_loss: float = 0.01  # of the loss at first: what is learned so far is not hindered

    def concerns(self, trace: Trace) -> bool:
        """Models in which something attends."""
        return bool(heads_of(trace, flow_of(trace))) or not len(trace.steps)

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for all modules that attend to one key."""
        flow = flow_of(trace)
        heads = heads_of(trace, flow)
        judged = {m: c for m, c in heads.items() if _known(trace, c).sum() >= self.min_steps}
        if not judged:
            raise NotJudged(f"needs the entropy of attention over values in {self.min_steps} steps")
        found, learned = [], has_fallen(trace, to=self.learned_loss)
        for module, columns in judged.items():
            entropy, known = _entropy(trace, columns), _known(trace, columns)
            lasting = persistence(known & (np.nan_to_num(entropy, nan=1.0) <= self.max_entropy), known)
            if lasting is None or not lasting.standing:
                continue
            begun = not learned and bool((entropy[known][: self.min_steps] <= self.max_entropy).all())
            in_vain = _in_vain(trace, lasting) or _passes_nothing(trace, flow, trace.sites[columns[0]])
            if begun or (entropy[lasting.last] <= self.error_entropy and in_vain):
                found.append((module, columns, lasting))
        if found:
            yield self._finding(trace, flow, found, len(judged))

    def _finding(
        self, trace: Trace, flow: Flow | None, found: list[tuple[str, list[int], Persistence]], of: int
    ) -> Finding:
        module, columns, lasting = found[0]
        entropy = float(np.median(_entropy(trace, columns)[lasting.rows]))
        logit = float(np.nanmax(trace.statistics[Statistic.MAX_LOGIT][lasting.first, columns]))
        first, last = int(trace.steps[lasting.first]), int(trace.steps[lasting.last])
        where, cause, remedy = self._why(trace, flow, trace.sites[columns[0]], logit, lasting.first)
        more = f" ({len(found)} of {of} attentions are so)" if of > 1 else ""
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if entropy <= self.error_entropy else Severity.WARNING,
            module=where,
            sites=tuple(trace.sites[c] for _, all_columns, _ in found for c in all_columns),
            alike=tuple(dict.fromkeys([where, *(_place(m) for m, _, _ in found[1:])])),
            first_step=first,
            last_step=last,
            measured=entropy,
            threshold=self.max_entropy,
            unit="share of the largest entropy",
            message=(
                f"The attention of {_place(module) or 'the model'} looks at a single key since step {first}: its"
                f" entropy is {number(entropy)} of the largest possible, with logits up to {number(logit)}{more}."
            ),
            cause=cause,
            remedy=remedy,
        )

    def _why(self, trace: Trace, flow: Flow | None, site: Site, logit: float, row: int) -> tuple[str, str, str]:
        """The module to look at, cause and remedy."""
        factor = max(logit / self.usual_logit, 2.0)
        made_by = [layer for layer in _makers(trace, flow, site) if layer.module != site.module]
        scales = {layer.module: float(relative_scale(trace, layer)[row]) for layer in made_by}
        own = [layer for layer in learned_layers(trace) if layer.module == site.module]
        largest = max(scales, key=lambda m: np.nan_to_num(scales[m]), default="")
        base = (
            f"Its largest logit is {number(logit)} at step {int(trace.steps[row])}, where about"
            f" {number(self.usual_logit)} is usual"
        )
        if largest and scales[largest] >= self.large_scale:
            return (
                largest,
                f"{base}; the weight of {largest} has {number(scales[largest])} times the scale that keeps a signal's"
                " spread.",
                f"Divide the weight of {largest} by {number(min(factor, scales[largest]))}.",
            )
        where = _place(site.module) or largest
        if own and (scale := float(relative_scale(trace, own[0])[row])) >= self.large_scale:
            return (
                where,
                f"{base}; its in-projection has {number(scale)} times the scale that keeps a signal's spread.",
                f"Divide the weights that make the queries and keys of {where} by {number(np.sqrt(factor))} each.",
            )
        return (
            where,
            f"{base}, though no weight before it is large: the logits are not divided by √d, or by too small a"
            " temperature.",
            f"Divide the logits of {where} by {number(factor)} more than now: by √d of the width d of a head.",
        )


def heads_of(trace: Trace, flow: Flow | None) -> dict[str, list[int]]:
    """Columns of the heads of whatever attends, or of the whole where heads were not told apart, by depth."""
    measured = trace.statistics[Statistic.ATTENTION_ENTROPY]
    found: dict[str, list[int]] = {}
    for column in trace.columns(Quantity.OUTPUT):
        site = trace.sites[column]
        if not np.isnan(measured[:, column]).all() and (
            "Softmax" not in site.module_type or _weighs(trace, flow, site.module)
        ):
            found.setdefault(site.module, []).append(column)
    for module, columns in found.items():
        heads = [c for c in columns if trace.sites[c].name.startswith("head")]
        found[module] = heads or columns
    return found


def _weighs(trace: Trace, flow: Flow | None, module: str) -> bool:
    """Whether what a softmax returns weighs values, by a matrix product or a sum.

    Where that was not seen it may, unless the loss does not ask for it, as of a figure that is only printed.
    """
    waiting, seen = [] if flow is None else _returned(flow, module), set[Vertex]()
    if flow is None or not any(vertex in flow.after for vertex in waiting):
        return bool(trace.columns(Quantity.OUTPUT_GRAD, module)) or not trace.columns(Quantity.OUTPUT_GRAD)
    while waiting:
        vertex = waiting.pop()
        for following in flow.after.get(vertex, ()):
            names = flow.through.get((vertex, following), ())
            if any("mm" in name.lower() for name in names) or _sums_up(flow, vertex, following):
                return True
            passed = Vertex(following.module, following.call, Side.RETURNED)
            if "drop" in following.module.lower() and passed not in seen:
                seen.add(passed)
                waiting.append(passed)
    return False


def _sums_up(flow: Flow, weights: Vertex, following: Vertex) -> bool:
    """Whether it is multiplied, element by element, with what one module returns, and summed; experts are several."""
    through = flow.through.get((weights, following), ())
    product, total = (any(name.startswith(f"{kind}Backward") for name in through) for kind in ("Mul", "Sum"))
    others = {
        leading.module
        for leading in flow.before.get(following, ())
        if leading.module not in (weights.module, INPUT)
        and any(name.startswith("MulBackward") for name in flow.through.get((leading, following), ()))
    }
    return product and total and len(others) == 1


def _returned(flow: Flow, module: str) -> list[Vertex]:
    """What a softmax returns; a module that does nothing else returns the same."""
    return [vertex for name in dict.fromkeys([module, _place(module)]) for vertex in flow.returned(name)]


def _makers(trace: Trace, flow: Flow | None, site: Site) -> list[Layer]:
    """The learned layers whose outputs the logits are made of."""
    layers = learned_layers(trace)
    nearest = () if flow is None else {*flow.feeds(site.module), *flow.feeds(_place(site.module))}
    if not nearest:
        return [layer for layer in layers if layer.depth < site.depth][-2:]
    return [layer for layer in layers if layer.module in nearest]


def _place(module: str) -> str:
    """The module of the model in which something attends."""
    return module.rpartition(".")[0] if "#" in module else module


def _known(trace: Trace, columns: list[int]) -> Bools:
    return np.asarray(~np.isnan(trace.statistics[Statistic.ATTENTION_ENTROPY][:, columns]).all(axis=1))


def _entropy(trace: Trace, columns: list[int]) -> Doubles:
    """The median over the heads, over the steps."""
    values = trace.statistics[Statistic.ATTENTION_ENTROPY][:, columns].astype(np.float64)
    result = np.full(len(values), np.nan)
    rows = ~np.isnan(values).all(axis=1)
    result[rows] = np.nanmedian(values[rows], axis=1)
    return result


def _passes_nothing(trace: Trace, flow: Flow | None, site: Site) -> bool:
    """Whether what makes the logits gets a gradient of exactly zero in the end, though the softmax is given one."""
    end = slice(-max(len(trace.steps) // 10, 1), None)
    given = [norms(trace, c)[end] for c in trace.columns(Quantity.OUTPUT_GRAD, site.module)]
    passed = [
        norms(trace, c)[end]
        for layer in _makers(trace, flow, site)
        for c in trace.columns(Quantity.OUTPUT_GRAD, layer.module)
    ]
    return bool(given and passed) and all((g > 0).all() for g in given) and all((p == 0).all() for p in passed)


def _in_vain(trace: Trace, lasting: Persistence) -> bool:
    """Whether the loss was no lower at the end than before attention became sharp."""
    loss = trace.per_step["loss"]
    before, since = loss[: lasting.first], loss[-max(len(loss) // 4, 1) :]
    before, since = before[np.isfinite(before)][-5:], since[np.isfinite(since)]
    return bool(len(before) and len(since)) and float(np.mean(since)) >= float(np.mean(before))

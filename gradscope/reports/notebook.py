"""How a diagnosis, a trace and a scope show themselves in a notebook, and where a forge shows the notebook.

A forge strips scripts, styles and drawings from what a cell has printed. So there are none: tables, what unfolds, and
sparklines of Unicode, in the colours of whoever shows them, light or dark. All stays below a megabyte, whatever the
modules are called and however many there are.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np

from gradscope.budget import signed
from gradscope.findings import Diagnosis, Finding, Role
from gradscope.records import Quantity
from gradscope.reports.bars import sparkline
from gradscope.reports.diagnosis_text import by_reason, verdict
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.outstanding import Standing, standings
from gradscope.reports.passage import column_medians, memory_words, passages
from gradscope.reports.profile import FEWEST_LAYERS, FEWEST_TIMES, SYMBOL, depth_profile
from gradscope.reports.run_words import particulars
from gradscope.reports.terminal import series_over_steps
from gradscope.reports.verdict_words import counted, from_root, heads
from gradscope.trace import Doubles, Trace

MOST_NAME, MOST_TEXT = 80, 700
MOST_HEADS, OPEN_HEADS, MOST_FOLDED = 12, 3, 12
MOST_REASONS, MOST_NAMED = 12, 8
MOST_LAYERS = 6  # of those that stand out, and of the recurrent ones
SPARK_WIDTH = 24


def diagnosis_html(diagnosis: Diagnosis) -> str:
    """The verdict, the findings that lead with what follows from them, and what could not be judged."""
    return "".join(_diagnosis(diagnosis))


def trace_html(trace: Trace) -> str:
    """What was recorded, without a verdict: the run, its loss, and the layers farthest from the others."""
    return "".join(_trace(trace))


def scope_html(trace: Trace, diagnosis: Diagnosis, *, running: bool) -> str:
    """What a scope has recorded so far, and what that shows."""
    if not len(trace.steps):
        missing = "no step has ended yet" if running else "it was detached before a step had ended"
        return f"<p><b>gradscope: nothing recorded</b> · {missing}</p>"
    now = "recording, so far:" if running else "detached; recorded:"
    return f"<p>{now}</p>" + "".join(_diagnosis(diagnosis)) + "".join(_trace(trace))


# ---------------------------------------------------------------- the diagnosis


def _diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    said = escape(verdict(diagnosis).plain)
    yield (
        f"<p><b>gradscope: {said}</b> · {counted(diagnosis.steps, 'step')}, {counted(diagnosis.sites, 'site')}</p>\n"
    )
    leading = list(heads(diagnosis))
    for index, (finding, folded) in enumerate(leading[:MOST_HEADS]):
        yield from _finding(finding, folded, unfolded=index < OPEN_HEADS)
    if len(leading) > MOST_HEADS:
        yield f"<p>and {len(leading) - MOST_HEADS} more: <code>diagnosis.to_frame()</code> has all</p>\n"
    yield from _not_judged(diagnosis)


def _finding(finding: Finding, folded: Sequence[Finding], *, unfolded: bool) -> Iterator[str]:
    yield (
        f"<details{' open' if unfolded else ''}><summary><b>{finding.severity.value}</b> {escape(finding.title)}"
        f" · {_name(finding.module)}</summary>\n<p>{_text(finding.message)}</p>\n"
    )
    follows = "" if finding.role is Role.ROOT else from_root(finding.caused_by).removeprefix("follows from ")
    for label, text in (("from", follows), ("cause", finding.cause), ("remedy", finding.remedy)):
        if text:
            yield f"<p><b>{label}</b> {_text(text)}</p>\n"
    if folded:
        word = "hence" if finding.role is Role.ROOT else "also"
        yield f"<details><summary>{word} {counted(len(folded), 'finding')}</summary>\n"
        rows = [(_left(escape(f.title)), _left(_name(f.module)), _left(_text(f.message))) for f in folded[:MOST_FOLDED]]
        yield from _table(("finding", "module", "what"), rows)
        yield _more(len(folded) - MOST_FOLDED) + "</details>\n"
    yield "</details>\n"


def _not_judged(diagnosis: Diagnosis) -> Iterator[str]:
    """The rules that lacked data, those with the same reason in one line."""
    reasons = by_reason((item.rule, item.reason) for item in diagnosis.not_judged)
    if not reasons:
        return
    yield f"<details><summary>{counted(len(diagnosis.not_judged), 'rule')} not judged</summary><ul>\n"
    for reason, rules in list(reasons.items())[:MOST_REASONS]:
        more = f" and {len(rules) - MOST_NAMED} more" if len(rules) > MOST_NAMED else ""
        yield f"<li>{', '.join(map(_short, rules[:MOST_NAMED]))}{more}: {_text(reason)}</li>\n"
    yield f"</ul>{_more(len(reasons) - MOST_REASONS)}</details>\n"


# ---------------------------------------------------------------- the trace


def _trace(trace: Trace) -> Iterator[str]:
    if not len(trace.steps):
        yield "<p><b>gradscope trace</b> · no step was recorded</p>\n"
        return
    yield f"<p><b>gradscope trace</b> · {' · '.join(map(_short, particulars(trace)))}</p>\n"
    yield from _table(("", "", "first → last"), _series(trace))
    found = standings(trace)
    if found is not None:
        of = f"rms of {SYMBOL[found.quantity]}"
        shown = found.layers[:MOST_LAYERS]
        more = f", {len(shown)} of {found.among}" if found.among > len(shown) else ""
        yield f"<p>The layers farthest from the median layer{more}</p>\n"
        head = ("layer", "class", f"{of} over the steps", "median", "decades off", "dead or saturated", "NaN or Inf")
        yield from _table(head, map(_standing, shown))
    yield from _through_time(trace)


def _series(trace: Trace) -> Iterator[tuple[str, ...]]:
    """Over the steps, and over the layers."""
    for label, values in series_over_steps(trace):
        known = values[~np.isnan(values)]
        if len(known):
            yield _left(f"{label} over the steps"), _spark(values), f"{known[0]:.3g} → {values[-1]:.3g}"
    for quantity in (Quantity.OUTPUT, Quantity.OUTPUT_GRAD):
        profile = depth_profile([trace], quantity)
        if profile is not None and len(profile) >= FEWEST_LAYERS:
            ends = f"{profile.rms[0]:.3g} → {profile.rms[-1]:.3g}"
            yield _left(f"rms of {profile.symbol} from input to output"), _spark(profile.rms), ends


def _standing(layer: Standing) -> tuple[str, ...]:
    broken = counted(layer.broken_steps, "step") if layer.broken_steps else ""
    return (
        _left(_name(layer.place)),
        _left(_short(layer.module_type)),
        _spark(layer.rms),
        "" if np.isnan(layer.median) else f"{layer.median:.3g}",
        signed(layer.decades) if np.isfinite(layer.decades) else "",
        "" if np.isnan(layer.idle) else f"{layer.idle:.0%}",
        broken,
    )


def _through_time(trace: Trace) -> Iterator[str]:
    layers = [passage for passage in passages(trace) if passage.times >= FEWEST_TIMES]
    if not layers:
        return
    rows = (
        (
            _left(_name(passage.name)),
            _spark(column_medians(passage.rms)[passage.seen.any(axis=0)]),
            "" if np.isnan(passage.gain()) else f"{passage.gain():.3g}",
            "" if np.isnan(passage.memory()) else memory_words(passage.memory(), passage.lag),
            str(passage.times),
        )
        for passage in layers[:MOST_LAYERS]
    )
    yield from _table(("through time", "gradient, first to last position", "gain a step", "memory", "positions"), rows)
    yield _more(len(layers) - MOST_LAYERS)


# ---------------------------------------------------------------- pieces


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Of HTML in each cell; without columns that are empty, and nothing without rows."""
    cells = list(rows)
    shown = [column for column in range(len(head)) if any(row[column] for row in cells)]
    written = ["<tr>" + "".join(f"<td>{row[c]}</td>" for c in shown) + "</tr>\n" for row in cells]
    if written:
        titles = "".join(f"<th>{_left(head[c])}</th>" for c in shown)
        yield f"<table><thead><tr>{titles}</tr></thead>\n<tbody>{''.join(written)}</tbody></table>\n"


def _left(html: str) -> str:
    """Words begin at the left: Jupyter sets every cell to the right, and a forge lets no style through."""
    return f'<div align="left">{html}</div>'


def _spark(values: Doubles) -> str:
    return f"<code>{escape(sparkline(values, SPARK_WIDTH).plain)}</code>"


def _name(module: str) -> str:
    return f"<code>{_short(module)}</code>" if module else "(model)"


def _short(name: str) -> str:
    return escape(shortened(on_one_line(name), MOST_NAME))


def _text(text: str) -> str:
    whole = text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"
    return escape(on_one_line(whole))


def _more(count: int) -> str:
    return f"<p>and {count} more</p>\n" if count > 0 else ""

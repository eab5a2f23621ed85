"""A training that runs, at a terminal: one frame that is drawn again and again, or a line for each change.

A frame is as high as the terminal at most, whatever was found: the verdict, where the run is, the worst layers with how
they went, the findings. The whole diagnosis is `gradscope report`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gradscope.findings import Finding, Severity
from gradscope.moment import Moment
from gradscope.reports.bars import NAN, STYLE, sparkline
from gradscope.reports.diagnosis_text import SEVERITY_STYLE, verdict
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.outstanding import Standing as Layer
from gradscope.reports.outstanding import standings
from gradscope.reports.profile import SYMBOL
from gradscope.reports.terminal import glyphs_for, series_over_steps
from gradscope.reports.verdict_words import counted, place
from gradscope.reports.wide import heading
from gradscope.tail import Standing

SPARK_WIDTH, NARROW_SPARK = 32, 16
MOST_LAYERS, FEWEST_LINES = 8, 12
_NOW_AND_THEN: Final = 10  # steps
_QUIET_S: Final = 5.0  # after which it is said that nothing comes


def standing_words(moment: Moment) -> Text:
    """How it stands with the run, in a sentence."""
    waits = f"; no new step for {moment.silent_s:.0f} s" if moment.silent_s > _QUIET_S else ""
    match moment.standing:
        case Standing.ABSENT if moment.recorded:
            return Text("the file is gone", "yellow")
        case Standing.ABSENT:
            return Text(f"waiting for {on_one_line(moment.path)}, which does not exist yet", "yellow")
        case Standing.BEGINNING:
            return Text("waiting for the first step of a run that begins", "yellow")
        case Standing.WRITTEN:
            return Text(f"training{waits}", "yellow" if waits else "green")
        case Standing.KILLED:
            return Text("the training has died: it was killed, or its disk is full; what it wrote is here", "bold red")
        case Standing.ENDED:
            return Text("the recording has ended", "bold")


@dataclass(frozen=True, slots=True, eq=False)
class LiveFrame:
    """What rich draws of a moment, and `hint`, what the keys do, under it."""

    moment: Moment
    hint: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As high as the terminal at most."""
        moment = self.moment
        said = verdict(moment.diagnosis) if moment.diagnosis is not None else Text("not judged yet", "dim")
        yield heading("gradscope live", said, options)
        yield _fitting(Text.assemble(*_where(moment)), options)
        yield _fitting(standing_words(moment), options)
        room = max((options.height or console.size.height) - 1, FEWEST_LINES) - 4
        series = list(_over_steps(moment, options))
        findings = list(_findings(moment))
        layers = min(MOST_LAYERS, max(2, room - len(series) - min(len(findings), 4) - 4))
        if series:
            yield _table(series)
        if shown := list(_worst(moment, options, layers)):
            yield Text()
            yield _table(shown)
            room -= len(shown) + 1
        room -= len(series) + 1
        if findings and room > 0:
            yield Text()
            more = len(findings) - room
            for line in findings[: room - 1 if more > 0 else room]:
                yield _fitting(line, options)
            if more > 0:
                yield Text(f"and {counted(more + 1, 'more finding')}".replace("more findings", "more"), "dim")
        yield _fitting(Text(self.hint, "dim"), options)


def changes(before: Moment | None, now: Moment) -> Iterator[str]:
    """What has changed since, a line each: the run, findings that have come, gone or become more severe."""
    is_new = before is None or before.run != now.run
    if now.run and is_new:
        again = "a new run has begun: " if before is not None and before.run else ""
        model = str(now.trace.meta.get("model") or "a model")
        yield on_one_line(f"{again}{model}, {counted(len(now.trace.sites), 'site')} in {now.path}")
    earlier = {} if is_new or before is None else _by_identity(before)
    current = _by_identity(now)
    for identity, finding in current.items():
        known = earlier.get(identity)
        if known is None:
            yield f"{_place_in_run(now)}: {_line(finding).plain}"
        elif known.severity is not finding.severity:
            yield f"{_place_in_run(now)}: now {_line(finding).plain}"
    for identity, finding in earlier.items():
        if identity not in current:
            yield f"{_place_in_run(now)}: no longer {finding.title} at {on_one_line(place(finding.module))}"
    told = before is not None and before.standing is now.standing and not (is_new and now.is_over)
    if not told and now.standing is not Standing.WRITTEN:  # that steps come shows it
        yield standing_words(now).plain


def progress(moment: Moment) -> str:
    """``step 1200, loss 0.31, 49 steps/s``."""
    parts = [_place_in_run(moment)]
    loss = _last_loss(moment)
    ever = not np.isnan(moment.trace.per_step["loss"]).all()
    parts += [f"loss {loss:.4g}"] if ever else []
    parts += [f"{moment.rate:.3g} steps/s"] if not np.isnan(moment.rate) else []
    return ", ".join(parts)


def _by_identity(moment: Moment) -> dict[tuple[str, str], Finding]:
    roots = moment.diagnosis.roots if moment.diagnosis is not None else ()
    return {(finding.code, finding.module): finding for finding in roots}


def _place_in_run(moment: Moment) -> str:
    return f"step {moment.trace.steps[-1]}" if len(moment.trace.steps) else "before the first step"


def _last_loss(moment: Moment) -> float:
    """NaN where it is not known; and where it is NaN, told from a loss that is recorded now and then."""
    loss = moment.trace.per_step["loss"][-_NOW_AND_THEN:]
    known = loss[~np.isnan(loss)]
    return float(known[-1]) if len(known) else float("nan")


def _where(moment: Moment) -> Iterator[str | tuple[str, str]]:
    """The model, the step, the loss, the rate."""
    yield (on_one_line(str(moment.trace.meta.get("model") or moment.path)), "bold")
    if not moment.recorded:
        return
    yield f"   {progress(moment)}"
    yield (f"   {counted(moment.recorded, 'step')} recorded, {counted(len(moment.trace.sites), 'site')}", "dim")


def _over_steps(moment: Moment, options: ConsoleOptions) -> Iterator[list[RenderableType]]:
    glyphs = glyphs_for(options)
    for label, values in series_over_steps(moment.trace):
        known = values[~np.isnan(values)]
        if len(known) > 1:
            ends = f"{known[0]:.3g} → {values[-1]:.3g}"
            yield [Text(label, "bold"), sparkline(values, _spark_width(options), glyphs), Text(ends)]


def _worst(moment: Moment, options: ConsoleOptions, most: int) -> Iterator[list[RenderableType]]:
    """The layers at which findings point, then those that stand farthest from the others."""
    found = standings(moment.trace) if moment.recorded else None
    if found is None:
        return
    flagged: dict[str, Severity] = {}
    for finding in moment.diagnosis.findings if moment.diagnosis is not None else ():
        for module in finding.modules:
            flagged.setdefault(module, finding.severity)
    ranked = sorted(found.layers, key=lambda layer: -flagged[layer.place].rank if layer.place in flagged else 1)
    yield [
        Text("worst layers", "bold"),
        Text(f"{SYMBOL[found.quantity]}, rms over the steps", "dim"),
        Text("now", "dim"),
        Text("to the median", "dim"),
        Text("idle", "dim") if any(_idle(layer) for layer in ranked[:most]) else Text(),
    ]
    for layer in ranked[:most]:
        yield _row(layer, flagged.get(layer.place), options)
    if len(ranked) > most:
        yield [Text(f"and {len(ranked) - most} more", "dim")]


def _row(layer: Layer, severity: Severity | None, options: ConsoleOptions) -> list[RenderableType]:
    name = shortened(on_one_line(layer.place or "(model)"), max(12, options.max_width // 4))
    broken = Text(f"NaN or Inf in {counted(layer.broken_steps, 'step')}", STYLE[NAN]) if layer.broken_steps else None
    decades = layer.decades
    apart = "exactly zero" if decades == -np.inf else "" if np.isnan(decades) else f"×{10.0**decades:.2g}"
    last = layer.rms[-1]
    return [
        Text(name, SEVERITY_STYLE[severity] if severity is not None else ""),
        sparkline(layer.rms, _spark_width(options), glyphs_for(options)),
        Text("" if np.isnan(last) else f"{last:.2e}"),
        broken or Text(apart),
        Text(_idle(layer)),
    ]


def _idle(layer: Layer) -> str:
    """The share of units that are dead or saturated, where there are some."""
    return "" if np.isnan(layer.idle) or layer.idle < 0.005 else f"{layer.idle:.0%}"


def _findings(moment: Moment) -> Iterator[Text]:
    diagnosis = moment.diagnosis
    for finding in diagnosis.roots if diagnosis is not None else ():
        line = _line(finding)
        if symptoms := len(diagnosis.symptoms_of(finding)) if diagnosis is not None else 0:
            line.append(f" (hence {symptoms} more)", "dim")
        yield line


def _line(finding: Finding) -> Text:
    return Text.assemble(
        (finding.severity.value, SEVERITY_STYLE[finding.severity]),
        f" {finding.title} ",
        (on_one_line(place(finding.module)), "bold cyan"),
        f"  since step {finding.first_step}: {on_one_line(finding.message)}",
    )


def _spark_width(options: ConsoleOptions) -> int:
    return SPARK_WIDTH if options.max_width >= 100 else NARROW_SPARK


def _table(rows: list[list[RenderableType]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for column in range(max(map(len, rows))):
        grid.add_column(
            no_wrap=True, overflow="ellipsis", justify="right" if column == 2 else "left", min_width=12 * (column == 0)
        )
    for row in rows:
        grid.add_row(*row)
    return grid


def _fitting(text: Text, options: ConsoleOptions) -> Text:
    """In one line."""
    text.truncate(options.max_width, overflow="ellipsis")
    return text

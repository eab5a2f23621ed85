"""A trace and its diagnosis for a person at a terminal: verdict, findings, profiles, the way over the steps."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gradscope.findings import Diagnosis, Json
from gradscope.records import ORDINARY_EVENTS, Quantity, Statistic
from gradscope.reports.bars import ASCII, BLOCKS, Glyphs, Panel, chart_heading, draw_panels, sparkline
from gradscope.reports.base import Destination
from gradscope.reports.by_rank import about_ranks
from gradscope.reports.diagnosis_text import diagnosis_parts, grouped_by_reason, verdict
from gradscope.reports.gate_text import TEXT_FILE_WIDTH, VerdictView, plain
from gradscope.reports.passage import joined_symbols, memory_words, passages
from gradscope.reports.profile import (
    FEWEST_LAYERS,
    FEWEST_TIMES,
    Profile,
    depth_profile,
    passage_profile,
    time_profile,
    without_shared_prefix,
)
from gradscope.reports.through_time import through_time
from gradscope.reports.wide import heading
from gradscope.trace import Doubles, Trace
from gradscope.verdict import Verdict

SPARK_WIDTH = 32
MOST_PANELS = 6
MOST_EVENTS = 3  # of one kind


@dataclass(frozen=True, slots=True)
class Terminal:
    """The report for a person, as text; coloured on a terminal."""

    name: str = "text"
    suffix: str = ".txt"
    about: str = "verdict, findings and profiles for a person"
    to_stream: bool = True

    def write(self, trace: Trace, diagnosis: Diagnosis, destination: Destination) -> tuple[Path, ...]:
        """Writes to a stream, with colour where it is a terminal, or to a file without."""
        if not isinstance(destination, Path):
            Console(file=destination, highlight=False).print(TraceReport(trace, diagnosis))
            return ()
        path = destination / "report.txt" if destination.is_dir() else destination
        return _plain_file(TraceReport(trace, diagnosis), path)

    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """The same for what the gate has judged."""
        if isinstance(destination, Path):
            return _plain_file(VerdictView(verdict), destination)
        console = Console(file=destination, highlight=False)
        if console.is_terminal:
            console.print(VerdictView(verdict))
        else:
            destination.write(plain(VerdictView(verdict), console.width))
        return ()


def _plain_file(shown: RenderableType, path: Path) -> tuple[Path, ...]:
    path.write_text(plain(shown, TEXT_FILE_WIDTH), encoding="utf-8")
    return (path,)


@dataclass(frozen=True, slots=True, eq=False)
class TraceReport:
    """What rich prints for one trace."""

    trace: Trace
    diagnosis: Diagnosis

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Verdict and findings first, then what they rest on."""
        glyphs = glyphs_for(options)
        yield heading("gradscope", verdict(self.diagnosis), options)
        yield Text(" · ".join(particulars(self.trace)), "dim")
        about = about_ranks(self.trace)
        if about is not None:
            yield Text(about, "yellow")
        for part in diagnosis_parts(self.diagnosis):
            yield Text()
            yield part
        flagged = frozenset(f.module for f in self.diagnosis.roots if f.module)
        for title, profile in _profiles(self.trace):
            yield Text()
            yield chart_heading(title, options.max_width)
            panel = Panel(Text(), profile, flagged, ends_note(profile))
            yield from (line for line in draw_panels([panel], options.max_width, glyphs) if line)
        for title, panels in _along_sequences(self.trace):
            yield Text()
            yield chart_heading(title, options.max_width)
            yield from (line for line in draw_panels(panels, options.max_width, glyphs) if line)
        for index, part in enumerate(through_time(self.trace, options.max_width, glyphs)):
            yield from () if index else (Text(),)
            yield part
        over_steps = _over_steps(self.trace, glyphs)
        if over_steps is not None:
            yield Text()
            yield over_steps
        if unseen := grouped_by_reason("not seen", _blind_spots(self.trace)):
            yield Text()
            yield unseen
        if self.trace.events:
            yield Text()
            yield from _events(self.trace)


def glyphs_for(options: ConsoleOptions) -> Glyphs:
    """Blocks where the encoding has them."""
    return ASCII if options.ascii_only else BLOCKS


def _blind_spots(trace: Trace) -> list[tuple[str, str]]:
    """What the recording could not see, and why."""
    spots = trace.meta.get("blind_spots")
    return [
        (str(spot.get("module") or "(model)"), str(spot.get("why")))
        for spot in (spots if isinstance(spots, list) else [])
        if isinstance(spot, dict)
    ]


def _events(trace: Trace) -> Iterator[RenderableType]:
    """What happened to the recording, the first few of each kind."""
    for kind, count in Counter(event.kind for event in trace.events).items():
        style = "dim" if kind in ORDINARY_EVENTS else "yellow"
        for event in [event for event in trace.events if event.kind == kind][:MOST_EVENTS]:
            place = "" if event.module in event.message else f"{event.module} "
            what = "" if kind in ORDINARY_EVENTS else f"{event.kind} "
            yield Text(f"step {event.step}: {what}{place}{event.message}", style)
        if count > MOST_EVENTS:
            yield Text(f"{kind} {count - MOST_EVENTS} more times", style)


def ends_note(profile: Profile) -> str:
    """The ratio between both ends of a profile, in the direction in which the quantity travels."""
    ratio = profile.first_to_last
    if not np.isfinite(ratio):
        return ""
    backward = profile.quantity.value.endswith("grad")
    if not backward:
        return f"first to last ×{1 / ratio:.2g}" if ratio > 0 else ""
    memory = "" if np.isnan(profile.memory) else f", memory {memory_words(profile.memory, profile.lag)}"
    if any(profile.cuts):  # several sequences: the ends of all of them say nothing
        return memory.removeprefix(", ")
    return f"{'first to last' if profile.reverse else 'last to first'} ×{ratio:.2g}{memory}"


def particulars(trace: Trace) -> Iterator[str]:
    """Model, parameters, optimizer, steps: what a reader must know to judge the rest."""
    meta = trace.meta
    if meta.get("scenario"):
        yield f"{meta['scenario']}: {meta.get('variant')}, seed {meta.get('seed')}"
    if meta.get("model"):
        yield str(meta["model"])
    parameters, trainable = meta.get("parameters"), meta.get("trainable")
    if isinstance(parameters, int):
        frozen = f", {trainable:,} trainable" if isinstance(trainable, int) and trainable != parameters else ""
        yield f"{parameters:,} parameters{frozen}"
    optimizers = meta.get("optimizers")
    for optimizer in optimizers if isinstance(optimizers, list) else []:
        yield _optimizer(optimizer)
    steps = len(trace.steps)
    span = f" ({trace.steps[0]} to {trace.steps[-1]})" if steps > 1 else ""
    yield f"{steps} step{'s' if steps != 1 else ''} recorded{span}"
    yield f"{len(trace.sites)} sites"
    if trace.ranks is not None:
        yield f"{len(trace.ranks.ranks)} ranks"


def _optimizer(optimizer: Json) -> str:
    if not isinstance(optimizer, dict):
        return str(optimizer)
    lr = optimizer.get("lr")
    return f"{optimizer.get('type', 'optimizer')}" + (f" lr {lr:g}" if isinstance(lr, int | float) else "")


def _profiles(trace: Trace) -> Iterator[tuple[str, Profile]]:
    for quantity, title in (
        (Quantity.OUTPUT_GRAD, "Gradient ∂L/∂y by depth"),
        (Quantity.OUTPUT, "Activation y by depth"),
    ):
        profile = depth_profile([trace], quantity)
        if profile is not None and len(profile) >= FEWEST_LAYERS:
            yield title, profile


def _along_sequences(trace: Trace) -> Iterator[tuple[str, list[Panel]]]:
    """Each recurrent layer and direction; where there is none, what else has positions in a sequence."""
    layers = [p for p in passages(trace) if p.times >= FEWEST_TIMES]
    profiles = [passage_profile([layer]) for layer in layers] or [p for p in (time_profile([trace]),) if p]
    if len(profiles) == 1:
        yield f"Gradient {profiles[0].symbol} of {profiles[0].where or 'the model'} by time", _panels(profiles, [""])
    elif profiles:
        shown = profiles[-MOST_PANELS:]  # the table has them all
        title = f"Gradient {joined_symbols(p.symbol for p in shown)} by time"
        yield title, _panels(shown, without_shared_prefix([p.where for p in shown]))


def _panels(profiles: Sequence[Profile], names: Sequence[str]) -> list[Panel]:
    return [Panel(Text(name, "bold"), p, frozenset(), ends_note(p)) for p, name in zip(profiles, names, strict=True)]


def _over_steps(trace: Trace, glyphs: Glyphs) -> RenderableType | None:
    """Loss and gradient norm over the steps, one line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right")
    for label, values in series_over_steps(trace):
        known = values[~np.isnan(values)]
        if len(known) and len(values) > 1:
            grid.add_row(label, sparkline(values, SPARK_WIDTH, glyphs), f"{known[0]:.3g} → {values[-1]:.3g}")
    if not grid.row_count:
        return None
    return Group(Text.assemble(("Over the steps", "bold")), grid)


def series_over_steps(trace: Trace) -> list[tuple[str, Doubles]]:
    """The loss, the norm of all gradients, and that as applied where it differs; each of shape (step,)."""
    series = [("loss", trace.per_step["loss"])]
    for name, label in (("raw", "gradient norm"), ("applied", "as applied")):
        if trace.columns(Quantity.TOTAL_NORM, "", name):
            norms = trace.series("", Quantity.TOTAL_NORM, Statistic.L2_NORM, name=name)
            if name == "raw" or not np.allclose(norms, series[-1][1], equal_nan=True):
                series.append((label, norms.astype(np.float64)))
    return series

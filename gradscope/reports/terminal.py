"""A trace and its diagnosis for a person at a terminal: verdict, findings, profiles, the way over the steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gradscope.findings import Diagnosis
from gradscope.records import Quantity, Statistic
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
from gradscope.reports.run_words import blind_spots, events, particulars
from gradscope.reports.through_time import through_time
from gradscope.reports.wide import heading
from gradscope.trace import Doubles, Trace
from gradscope.verdict import Verdict

SPARK_WIDTH = 32
MOST_PANELS = 6


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
        if unseen := grouped_by_reason("not seen", blind_spots(self.trace)):
            yield Text()
            yield unseen
        if self.trace.events:
            yield Text()
            for said, ordinary in events(self.trace):
                yield Text(said, "dim" if ordinary else "yellow")


def glyphs_for(options: ConsoleOptions) -> Glyphs:
    """Blocks where the encoding has them."""
    return ASCII if options.ascii_only else BLOCKS


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

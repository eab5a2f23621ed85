"""Through time, as a page shows it: for each recurrent layer how far the gradient reaches back, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bokeh.models.annotations import Legend, Span
from bokeh.plotting import figure

from gradscope.findings import Diagnosis
from gradscope.reports.page import Section
from gradscope.reports.page_figure import COLOURS, DASHES, NEUTRAL, plain_figure
from gradscope.reports.page_map import NONFINITE_COLOUR, ZERO_COLOUR
from gradscope.reports.passage import Passage, joined_symbols, memory_words, passages
from gradscope.reports.profile import FEWEST_TIMES, Profile, passage_profile, time_profile
from gradscope.reports.through_time import COLUMNS, Column, notes
from gradscope.reports.time_maps import (
    ALL_COLUMNS,
    MOST_COLUMNS,
    TimeMap,
    time_map,
)
from gradscope.trace import Trace

OPEN_MAPS = 4  # layers whose map is unfolded; of more a reader chooses
MOST_LINES = 12  # of the profiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A layer's line of the table."""

    module: str
    name: str
    cells: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a map stands."""

    name: str
    module: str
    figure: str
    symbol: str
    shrunk: str
    folded: bool


def time_section(trace: Trace, _: Diagnosis) -> Section | None:
    """The section; None where nothing that was recorded has positions in a sequence."""
    found = passages(trace)
    profiles = [passage_profile([one]) for one in found if one.times >= FEWEST_TIMES]
    profiles = profiles[-MOST_LINES:] or [one for one in (time_profile([trace]),) if one is not None and not found]
    if not found and not profiles:
        return None
    maps = _maps(found)
    drawn = {"time-profiles": _drawn(profiles)} if profiles else {}
    return Section(
        anchor="time",
        title="Through time",
        template="time.html",
        context={
            "about": _about(found, profiles),
            "table_heads": [" ".join(column.head).strip() for column in _columns(found)],
            "rows": [_row(one, found) for one in found],
            "profiles": bool(profiles),
            "rings": any(np.isfinite(one.memory_mark[0]) for one in profiles),
            "cuts": any(one.cuts for one in profiles),
            "broken": any(one.nonfinite.any() for one in profiles),
            "maps": [
                _place(one, name, made, len(found)) for one, (name, made) in zip(found, maps.items(), strict=True)
            ],
            "notes": list(notes(trace, found)),
            "nonfinite_colour": NONFINITE_COLOUR,
            "zero_colour": ZERO_COLOUR,
        },
        figures=drawn | {name: made.figure for name, made in maps.items()},
        data={name: made.grid for name, made in maps.items()},
        scripts=("codes.js", "time.js", "shows.js"),
    )


def _maps(found: Sequence[Passage]) -> dict[str, TimeMap]:
    columns = min(MOST_COLUMNS, max(ALL_COLUMNS // max(len(found), 1), 20))
    names = [f"time-map-{index}" for index in range(len(found))]
    return {name: time_map(one, name, columns=columns) for name, one in zip(names, found, strict=True)}


def _place(one: Passage, name: str, made: TimeMap, several: int) -> Place:
    return Place(
        name=one.name,
        module=one.recurrence.module,
        figure=name,
        symbol=one.symbol,
        shrunk=made.shrunk,
        folded=several > OPEN_MAPS,
    )


def _about(found: Sequence[Passage], profiles: Sequence[Profile]) -> str:
    if found:
        return (
            "A gain of 1 a step keeps it; its memory is after how many positions, of those that it could travel, 1/e or"
            " 1e-3 of it is left."
        )
    return f"No state's gradient was recorded: this is {profiles[0].symbol} of {profiles[0].where or 'the model'}."


def _columns(found: Sequence[Passage]) -> list[Column]:
    """Those of which some layer has the number."""
    return [column for column in COLUMNS if any(column.cell(one) for one in found)]


def _row(one: Passage, found: Sequence[Passage]) -> Row:
    return Row(module=one.recurrence.module, name=one.name, cells=[column.cell(one) for column in _columns(found)])


def _drawn(profiles: Sequence[Profile]) -> figure:
    """The rms over the positions, a line for each layer, with its memory."""
    symbol = joined_symbols(one.symbol for one in profiles)
    drawn = plain_figure(height=320, x_label="position in the sequence", y_label=f"rms of {symbol}", y_type="log")
    legend = Legend(background_fill_alpha=0, border_line_alpha=0, label_text_color=NEUTRAL, ncols=2, location="left")
    drawn.add_layout(legend, "below")
    for index, one in enumerate(profiles):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        heights = np.where(one.rms > 0, one.rms, np.nan)  # a logarithm has no zero
        drawn.line(
            np.arange(float(len(one))), heights, color=colour, line_dash=dash, line_width=2, legend_label=_label(one)
        )
        at, height = one.memory_mark
        if np.isfinite(at):
            drawn.scatter([at], [height], size=13, fill_alpha=0, line_color=colour, line_width=3)
        broken = np.flatnonzero(one.nonfinite)
        if len(broken):
            low = np.nanmin(heights) if np.isfinite(heights).any() else 1.0
            drawn.scatter(
                broken.tolist(), [float(low)] * len(broken), marker="x", size=9, color=NONFINITE_COLOUR, line_width=2
            )
        for cut in one.cuts:
            drawn.add_layout(Span(location=cut, dimension="height", line_color=colour, line_dash="dotted"))
    return drawn


def _label(one: Profile) -> str:
    memory = f", memory {memory_words(one.memory, one.lag)}" if not np.isnan(one.memory) else ""
    return f"{one.where or '(model)'}{memory}"

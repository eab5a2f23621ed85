"""Bar charts for a terminal: the height of a bar is the logarithm of a size, a column is a layer or a time step.

Several charts stand side by side on one axis, so that they can be compared at a glance. Where there are more places
than columns, a column shows its smallest value solid and its largest shaded, and a mark under the axis if any of its
places is marked: a NaN layer among 500 stays visible.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.text import Text

from gradscope.reports.profile import Profile, without_shared_prefix

NAN, ZERO, UNSEEN, CUT, FOUND = "nan", "zero", "unseen", "cut", "found"
LEGEND = {
    NAN: "NaN or Inf",
    ZERO: "exactly zero",
    UNSEEN: "never observed",
    CUT: "cut: no gradient goes further back",
    FOUND: "a finding points here",
}
STYLE = {NAN: "bold red", ZERO: "bold magenta", UNSEEN: "dim", CUT: "bold", FOUND: "bold"}

# From small to large: violet, blue, teal, amber. Legible on light and dark, and told apart without red and green.
RAMP = np.array([(155, 109, 255), (111, 132, 245), (63, 159, 216), (31, 174, 159), (127, 174, 63), (224, 160, 32)])
DECADES_PER_ROW = (1, 2, 3, 4, 5, 6, 8, 10, 15)
MOST_ROWS, FEWER_ROWS = 8, 5
GAP = 2
FEWEST_COLUMNS, MOST_ROWS_OF_PANELS = 34, 2


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What bars are made of.

    Attributes:
        levels: A cell filled from not at all to wholly.
        between: From the smallest to the largest value of a column.
        line: The vertical axis.
        tick: The vertical axis at a label.
        corner: Where the axes meet.
        floor: The horizontal axis.
        marks: For NaN, zero, never observed, a cut, and where a finding points.
    """

    levels: str
    between: str
    line: str
    tick: str
    corner: str
    floor: str
    marks: dict[str, str]


BLOCKS = Glyphs(" ▁▂▃▄▅▆▇█", "░", "│", "┤", "└", "─", {NAN: "✗", ZERO: "0", UNSEEN: "·", CUT: "┴", FOUND: "▲"})
ASCII = Glyphs(" .:#", "'", "|", "+", "+", "-", {NAN: "X", ZERO: "0", UNSEEN: ".", CUT: "|", FOUND: "^"})


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic axis of `rows` rows, each `per_row` decades high, from 10^`low`."""

    low: int
    per_row: int
    rows: int

    @classmethod
    def covering(cls, profiles: Sequence[Profile], most_rows: int = MOST_ROWS) -> "Scale":
        """The axis that shows all of them. It spans four decades at least: a healthy profile looks flat."""
        logs = np.log10(np.concatenate([np.zeros(0), *(p.positive for p in profiles)]))
        high = math.ceil(logs.max() - 0.01) if len(logs) else 0
        low = math.ceil(logs.min()) - 1 if len(logs) else -4
        span = max(high - low, 4)
        per_row = next((d for d in DECADES_PER_ROW if span / d <= most_rows), math.ceil(span / most_rows))
        rows = math.ceil(span / per_row)
        return cls(high - rows * per_row, per_row, rows)

    def height(self, rms: float) -> float:
        """The height of `rms` in rows; a value that exists is at least a sliver."""
        return min(max((math.log10(rms) - self.low) / self.per_row, 0.13), self.rows)

    def label(self, row: int) -> str:
        """The value at the top edge of `row`, for every second row; row −1 is the axis."""
        return f"1e{self.low + (row + 1) * self.per_row}" if (self.rows - 1 - row) % 2 == 0 else ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: a title, a profile, the modules at which findings point, a line below."""

    title: Text
    profile: Profile
    flagged: frozenset[str] = frozenset()
    note: str = ""


def draw_panels(panels: Sequence[Panel], width: int, glyphs: Glyphs = BLOCKS) -> Iterator[Text]:
    """The panels on one axis, as many beside each other as `width` allows without binning; then a legend."""
    profiles = [panel.profile for panel in panels]
    scale = Scale.covering(profiles)
    if _arrange(panels, width - 8)[0] * 2 < len(panels):
        scale = Scale.covering(profiles, FEWER_ROWS)  # three panels one under the other must still fit a screen
    margin = max(len(scale.label(row)) for row in range(-1, scale.rows)) + 2
    per_row, room = _arrange(panels, width - margin)
    for start in range(0, len(panels), per_row):
        if start:
            yield Text()
        yield from _row_of(panels[start : start + per_row], scale, room, margin, glyphs)
    used = [m for m in LEGEND if any(m in _marks_of(p) for p in panels)]
    if used:
        legend = Text(" " * margin)
        for mark in used:
            legend.append(glyphs.marks[mark], STYLE[mark]).append(f" {LEGEND[mark]}   ", "dim")
        legend.rstrip()
        yield legend


def chart_heading(title: str, width: int) -> Text:
    """What stands over the panels, in one line."""
    about = ("   median rms over the recorded steps, logarithmic", "   median rms, logarithmic", "")
    fitting = next((words for words in about if len(title + words) <= width), "")
    return Text.assemble((title, "bold"), (fitting, "dim"))


def sparkline(values: ArrayLike, width: int, glyphs: Glyphs = BLOCKS) -> Text:
    """A series in one line, logarithmic if what is not zero is positive and spans over two decades; NaN is marked.

    On a logarithmic scale a zero is marked too.
    """
    series = np.asarray(values, dtype=np.float64)
    columns = np.array_split(series, min(width, len(series))) if len(series) else []
    finite = series[np.isfinite(series)]
    sizes = finite[finite != 0]
    log = bool(len(sizes)) and sizes.min() > 0 and sizes.max() / sizes.min() > 100
    finite = sizes if log else finite
    scaled: Callable[[float], float] = math.log10 if log else float
    low, high = (scaled(finite.min()), scaled(finite.max())) if len(finite) else (0.0, 1.0)
    least = 0.1 * max(abs(low), abs(high)) if not log else 1.0  # noise on a plateau is no mountain
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    line = Text()
    for column in columns:
        if not np.isfinite(column).all():
            line.append(glyphs.marks[NAN], STYLE[NAN])
            continue
        if log and not np.median(column):
            line.append(glyphs.marks[ZERO], STYLE[ZERO])
            continue
        share = (scaled(float(np.median(column))) - low) / (high - low) if high > low else 0.5
        line.append(glyphs.levels[1 + round(share * (len(glyphs.levels) - 2))], _colour(share))
    return line


def _arrange(panels: Sequence[Panel], width: int) -> tuple[int, int]:
    """How many panels stand beside each other, and how many columns each has."""
    longest = max(len(panel.profile) for panel in panels)
    texts = max(14, *(panel.title.cell_len for panel in panels), *(len(panel.note) for panel in panels))
    rows = len(panels)
    for wanted in (longest, min(longest, FEWEST_COLUMNS)):
        per_row = max(1, min(len(panels), (width + GAP) // (max(wanted, texts) + GAP)))
        rows = -(-len(panels) // per_row)
        if rows <= MOST_ROWS_OF_PANELS:
            break  # else two layers may share a column: what is to be compared must be on one screen
    per_row = -(-len(panels) // rows)  # 5 panels stand as 3 + 2, not as 4 + 1
    room = (width + GAP) // per_row - GAP
    return per_row, min(room, max(longest * min(3, max(1, room // longest)), texts))  # no wider than the bars need


def _row_of(panels: Sequence[Panel], scale: Scale, room: int, margin: int, glyphs: Glyphs) -> Iterator[Text]:
    drawn = [_draw(panel, scale, room, glyphs) for panel in panels]
    yield _joined(" " * margin, [panel.title.copy() for panel in panels], room)
    for row in reversed(range(scale.rows)):
        label = scale.label(row)
        head = f"{label:>{margin - 2}} {glyphs.tick if label else glyphs.line}"
        yield _joined(head, [chart.rows[row] for chart in drawn], room, glyphs.line)
    yield _joined(f"{scale.label(-1):>{margin - 2}} {glyphs.corner}", [c.axis for c in drawn], room, glyphs.corner)
    for below in ([c.pointers for c in drawn], [c.ends for c in drawn], [Text(p.note, "dim") for p in panels]):
        if any(text.plain.strip() for text in below):
            yield _joined(" " * margin, below, room)


def _joined(head: str, cells: Sequence[Text], room: int, line: str = " ") -> Text:
    joined = Text().append(head, "dim")
    for index, cell in enumerate(cells):
        if index:
            joined.append(" " * (GAP - 1)).append(line, "dim")
        cell.truncate(room, pad=True)
        joined.append_text(cell)
    joined.rstrip()
    return joined


@dataclass(frozen=True, slots=True)
class _Chart:
    """The lines of one panel; the rows from the bottom up."""

    rows: list[Text]
    axis: Text
    pointers: Text
    ends: Text


def _draw(panel: Panel, scale: Scale, room: int, glyphs: Glyphs) -> _Chart:
    profile = panel.profile
    columns = np.array_split(np.arange(len(profile)), min(room, len(profile)))
    cell = max(1, min(3, room // len(columns)))
    bar = max(1, cell - 1)
    used = len(columns) * cell - (cell - bar)
    chart = _Chart([Text() for _ in range(scale.rows)], Text(), Text(), _ends(profile, used, room))
    for index, column in enumerate(columns):
        gap = cell - bar if index + 1 < len(columns) else 0
        values = profile.rms[column]
        values = values[np.isfinite(values) & (values > 0)]
        bottom, top = (scale.height(values.min()), scale.height(values.max())) if len(values) else (0.0, 0.0)
        broken = bool(profile.nonfinite[column].any())
        if broken and not len(values):
            bottom, top = 0.0, float(scale.rows)  # nothing finite was ever there: shaded from bottom to top
        style = STYLE[NAN] if broken else _colour(top / scale.rows)
        for row, text in enumerate(chart.rows):
            text.append(_cell(row, bottom, top, glyphs) * bar, style).append(" " * gap)
        mark = _mark(panel, column)
        chart.axis.append((glyphs.marks[mark] if mark else glyphs.floor) * bar, STYLE[mark] if mark else "dim")
        chart.axis.append(glyphs.floor * gap, "dim")
        found = any(profile.modules[i] in panel.flagged for i in column)
        chart.pointers.append((glyphs.marks[FOUND] if found else " ") * bar, STYLE[FOUND]).append(" " * gap)
    return chart


def _colour(share: float) -> str:
    """Of the way from small (0) to large (1)."""
    stops = np.linspace(0, 1, len(RAMP))
    red, green, blue = (round(float(np.interp(share, stops, channel))) for channel in RAMP.T)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _cell(row: int, bottom: float, top: float, glyphs: Glyphs) -> str:
    filled = min(max(bottom - row, 0.0), 1.0)
    if filled == 0.0 and top > row and top - bottom > 1 / (len(glyphs.levels) - 1):
        return glyphs.between
    level = math.ceil(filled * (len(glyphs.levels) - 1) - 0.5)
    return glyphs.levels[max(level, 1) if filled and row == 0 else level]


def _mark(panel: Panel, column: NDArray[np.int64]) -> str | None:
    profile = panel.profile
    if profile.nonfinite[column].any():
        return NAN
    if (profile.rms[column] == 0).any():
        return ZERO
    if not profile.seen[column].all():
        return UNSEEN
    return CUT if any(cut in column for cut in profile.cuts) else None


def _marks_of(panel: Panel) -> set[str | None]:
    found = {FOUND} if panel.flagged & set(panel.profile.modules) else set()
    return found | {_mark(panel, np.array([i])) for i in range(len(panel.profile))}


def _ends(profile: Profile, used: int, room: int) -> Text:
    """The names of the first and the last place, under them where there is room."""
    names = without_shared_prefix(profile.places)
    first, last = names[0], names[-1]
    if profile.axis == "time":
        first, last = f"t={first}", f"t={last}"
    if len(profile) == 1:
        return Text(first[:room], "dim")
    if len(first) + len(last) + 1 <= used:
        return Text(first + last.rjust(used - len(first)), "dim")
    named = f"{first} to {last}"
    return Text(named if len(named) <= room else f"{len(profile)} layers"[:room], "dim")

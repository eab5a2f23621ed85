"""How every figure of a page looks: on light and dark ground alike, with the same tools."""

from typing import Final, Literal

from bokeh.models import BoxZoomTool, PanTool, ResetTool, SaveTool, Tool, WheelZoomTool
from bokeh.models.annotations import Title
from bokeh.plotting import figure

NEUTRAL: Final = "#7a7f87"  # reads on white (4.0 : 1) and on the dark ground (4.5 : 1)
FAINT: Final = "#7a7f8740"
# Okabe and Ito's colours without the yellow and the black, which one of the two grounds swallows
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES: Final = ("solid", "dashed", "dotdash", "dotted")


def plain_figure(
    *,
    height: int,
    x_label: str,
    y_label: str,
    x_type: Literal["linear", "log", "auto"] = "linear",
    y_type: Literal["linear", "log", "auto"] = "linear",
    title: str = "",
) -> figure:
    """An empty figure as wide as its place; the axes' labels name their units."""
    tools: list[Tool] = [PanTool(), BoxZoomTool(), WheelZoomTool(), ResetTool(), SaveTool()]
    made = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_label=x_label,
        y_axis_label=y_label,
        x_axis_type=x_type,
        y_axis_type=y_type,
        title=title or None,
        tools=tools,
        active_drag=None,
        active_scroll=None,  # a page is scrolled through, not zoomed into by accident
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=FAINT,
    )
    made.toolbar.logo = None
    made.toolbar.autohide = True
    for axis in made.axis:
        axis.axis_label_text_color = axis.major_label_text_color = NEUTRAL
        axis.axis_line_color = axis.major_tick_line_color = NEUTRAL
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "13px", "12px"
    made.grid.grid_line_color = FAINT
    if isinstance(made.title, Title):
        made.title.text_color, made.title.text_font_size = NEUTRAL, "14px"
    return made

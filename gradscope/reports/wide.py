"""Lines as wide as the terminal."""

from rich.console import ConsoleOptions
from rich.text import Text


def heading(title: str, verdict_text: Text, options: ConsoleOptions) -> Text:
    """A line over the whole width: the title, a rule, the verdict."""
    dash = "=" if options.ascii_only else "━"
    fill = max(options.max_width - len(title) - verdict_text.cell_len - 4, 1)
    return Text.assemble((f"{dash}{dash} ", "dim"), (title, "bold"), (f" {dash * (fill - 1)} ", "dim"), verdict_text)

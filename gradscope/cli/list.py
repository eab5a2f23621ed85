"""`gradscope list`: what is installed, ours and others'."""

import inspect

import click

from gradscope import plugins
from gradscope.cli.terminal import stdout

# Probes know torch: listing them takes its two seconds, so they are listed only when asked for.
WITHOUT_TORCH = ("scenarios", "rules", "reports")


@click.command("list")
@click.argument("kind", metavar="[scenarios|rules|probes|reports]", type=click.Choice(plugins.KINDS), required=False)
def list_(kind: str | None) -> None:
    """List what is installed: scenarios, rules and reports, or one KIND."""
    from rich.table import Table
    from rich.text import Text

    console = stdout()
    for index, one in enumerate([kind] if kind else WITHOUT_TORCH):
        if index:
            console.print()
        if kind is None:
            console.print(Text(one, "bold"))
        table = Table.grid(padding=(0, 2))
        for item in plugins.load(one):
            first = [code] if (code := getattr(item, "code", None)) else []
            table.add_row(*(Text(word, "cyan") for word in [*first, str(getattr(item, "name", item))]), about(item))
        console.print(table)


def about(item: object) -> str:
    """One line: a scenario's question, a report's own words, else the first sentence of the docstring."""
    for attribute in ("question", "about"):
        if said := getattr(item, attribute, None):
            return str(said)
    return (inspect.getdoc(item) or "").partition("\n")[0]

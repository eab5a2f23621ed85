"""`gradscope merge`: the files of all ranks of a distributed run → one trace."""

from pathlib import Path

import click

from gradscope.cli.terminal import say
from gradscope.errors import UsageError


@click.command("merge")
@click.argument("ranks", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Write there.")
@click.option("--force", is_flag=True, help="Replace a trace that lies there.")
def merge(ranks: tuple[Path, ...], output: Path, force: bool) -> int:
    """Add up the files of all RANKS of a distributed run, as if one process had recorded it.

    `gradscope merge run.rank*.h5 -o run.h5`
    """
    from gradscope.merge import merge as merge_traces
    from gradscope.storage import read_trace, save_trace

    for index, path in enumerate(ranks):
        if any(path.exists() and other.exists() and path.samefile(other) for other in ranks[:index]):
            raise UsageError(f"{path} is given twice; give each rank's file once.")
        if output.exists() and path.exists() and output.samefile(path):
            raise UsageError(f"`-o {output}` is one of the files to merge; name another file.")
    if output.exists() and not force:
        raise UsageError(f"`-o {output}` exists already; name another file, or replace it with `--force`.")
    merged = merge_traces({str(path): read_trace(path) for path in ranks})
    save_trace(merged, output)
    for event in merged.events:
        if event.kind in ("ranks-differ", "not-observed"):
            say(f"step {event.step}: {event.message}")
    say(f"wrote {output}: {len(ranks)} ranks, {len(merged.steps)} steps")
    return 0

"""`gradscope run`: trains a scenario's variants side by side and shows what was found."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, cast

import click

from gradscope import plugins
from gradscope.cli.terminal import say, stderr, stdout
from gradscope.errors import UsageError, nearest

if TYPE_CHECKING:
    from gradscope.reports.comparison import Comparison
    from gradscope.scenarios.base import Scenario, ScenarioResult

PAGE = "report.html"
OnStep = Callable[[str, int, int, int], None]


@click.command("run")
@click.argument("names", metavar="SCENARIO…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Run all scenarios.")
@click.option(
    "--seeds",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train with seeds 0 to N − 1.",
)
@click.option(
    "--steps", metavar="N", type=click.IntRange(min=1), help="Optimizer steps; by default the scenario's own number."
)
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="Change a setting; can be repeated.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for traces, numbers, figures and report.html.",
)
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that train at once.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(
    names: tuple[str, ...],
    every: bool,
    seeds: int,
    steps: int | None,
    settings: tuple[str, ...],
    out: Path | None,
    jobs: int,
    form: str,
) -> int:
    """Train the variants of SCENARIOs side by side.

    Each scenario gets a folder in --out: a trace and its numbers (CSV) for each variant and seed, result.json, figures
    and report.html, a page with the variants side by side. Without --out, all but the numbers go to a temporary folder
    whose path is printed. With --format json, one document per scenario goes to stdout, each on a line.
    """
    scenarios = choose(names, every)
    wanted = parse_settings(settings)
    check_settings(scenarios, wanted)
    directory = Path(mkdtemp(prefix="gradscope-")) if out is None else out
    as_expected = True
    for index, scenario in enumerate(scenarios):
        if index and form == "text":
            stdout().print()
        with progress(scenario, seeds, steps) as on_step:
            result = train(scenario, seeds, steps, wanted, directory / scenario.name, jobs, on_step)
        comparison = compare(result)
        keep(result, comparison, directory / scenario.name, numbers=out is not None)
        show(result, comparison, directory / scenario.name, form)
        as_expected &= result.as_expected
    return 0 if as_expected else 1


def choose(names: Sequence[str], every: bool) -> tuple["Scenario", ...]:
    """The scenarios of those names, or all.

    Raises:
        UsageError: None or an unknown one is named, or names beside `--all`.
    """
    installed = {one.name: one for one in cast("tuple[Scenario, ...]", plugins.load("scenarios"))}
    if every == bool(names):
        raise UsageError("`gradscope run` takes scenarios or `--all`; `gradscope list scenarios` shows them.")
    for name in names:
        if name not in installed:
            raise UsageError(f"{name!r} is no scenario{nearest(name, installed)}")
    return tuple(installed.values()) if every else tuple(installed[name] for name in dict.fromkeys(names))


def parse_settings(written: Sequence[str]) -> dict[str, str]:
    """``["depth=30"]`` → ``{"depth": "30"}``.

    Raises:
        UsageError: One has no ``=``, or a name stands twice.
    """
    parsed: dict[str, str] = {}
    for text in written:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"`--set {text}` must be NAME=VALUE, such as `--set depth=30`.")
        if name.strip() in parsed:
            raise UsageError(f"`--set {text}` sets {name.strip()!r} a second time; leave one.")
        parsed[name.strip()] = value.strip()
    return parsed


def check_settings(scenarios: Sequence["Scenario"], settings: Mapping[str, str]) -> None:
    """Raises UsageError where a scenario cannot take `settings`: before the first trains, not after."""
    from gradscope.scenarios.runner import read_settings

    for scenario in scenarios:
        read_settings(scenario, settings)


def train(
    scenario: "Scenario",
    seeds: int,
    steps: int | None,
    settings: Mapping[str, str],
    directory: Path,
    jobs: int,
    on_step: OnStep,
) -> "ScenarioResult":
    """Trains all variants; the traces lie in `directory`."""
    from gradscope.scenarios import runner

    return runner.run(
        scenario,
        seeds=range(seeds),
        steps=steps,
        settings=settings,
        directory=directory,
        jobs=jobs,
        on_step=on_step,
    )


@contextmanager
def progress(scenario: "Scenario", seeds: int, steps: int | None) -> Iterator[OnStep]:
    """A bar on stderr over all steps of all variants and seeds; nothing where stderr is no terminal."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        total = len(scenario.variants) * seeds * (steps or scenario.steps)
        task = bar.add_task(scenario.name, total=total)
        done: dict[tuple[str, int], int] = {}

        def on_step(variant: str, seed: int, step: int, steps: int) -> None:
            done[variant, seed] = step
            of_seed = f", seed {seed}" if seeds > 1 else ""
            bar.update(task, completed=sum(done.values()), description=f"{scenario.name}: {variant}{of_seed}")

        yield on_step


def compare(result: "ScenarioResult") -> "Comparison":
    """The result with its traces in memory, in the reports' words."""
    from gradscope.reports.comparison import ComparedRun, ComparedVariant, Comparison
    from gradscope.storage import read_trace

    scenario = result.scenario
    return Comparison(
        name=scenario.name,
        question=scenario.question,
        lesson=scenario.lesson,
        source=scenario.source,
        seeds=result.seeds,
        units=scenario.units,
        variants=tuple(
            ComparedVariant(
                name=variant.name,
                expect=variant.expect,
                forbid=variant.forbid,
                runs=tuple(
                    ComparedRun(
                        seed=one.seed,
                        trace=read_trace(one.trace),
                        diagnosis=one.diagnosis,
                        loss_first=one.loss_first,
                        loss_last=one.loss_last,
                        metrics=one.metrics,
                        exhibits=one.exhibits,
                    )
                    for one in result.of(variant)
                ),
            )
            for variant in scenario.variants
        ),
    )


def keep(result: "ScenarioResult", comparison: "Comparison", directory: Path, *, numbers: bool) -> None:
    """Writes the result, the page and the figures and, as `numbers`, a CSV beside each trace."""
    from gradscope.reports.comparison_page import comparison_page
    from gradscope.reports.csvfile import CsvFile
    from gradscope.reports.figures import save_figures

    document = json.dumps(result.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    (directory / "result.json").write_text(document + "\n", encoding="utf-8")
    for variant in comparison.variants if numbers else ():
        paths = [one.trace for one in result.runs if one.variant == variant.name]
        for one, path in zip(variant.runs, paths, strict=True):
            CsvFile().write(one.trace, one.diagnosis, path.with_suffix(".csv"))
    (directory / PAGE).write_text(comparison_page(comparison), encoding="utf-8")
    save_figures(comparison, directory)


def show(result: "ScenarioResult", comparison: "Comparison", directory: Path, form: str) -> None:
    """The report, or the JSON document, on stdout; then where the files are."""
    from rich.text import Text

    from gradscope.reports.side_by_side import ComparisonReport

    if form == "json":
        click.echo(json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False))
        say(f"files are in {directory}; to look at: {directory / PAGE}")
        return
    console = stdout()
    console.print(ComparisonReport(comparison))
    console.print()
    console.print(Text.assemble(("Files ", "bold"), str(directory)), soft_wrap=True)
    console.print(Text.assemble(("Page  ", "bold"), str(directory / PAGE)), soft_wrap=True)
    console.print(Text(f"one of them alone: gradscope report {result.runs[0].trace}", "dim"), soft_wrap=True)

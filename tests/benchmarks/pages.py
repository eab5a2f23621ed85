"""What the page of a long run costs: seconds and peak resident size to write it, its size, and how soon it is ready.

    python tests/benchmarks/pages.py

Promised for 1,000 layers × 5,000 steps: written in under 10 s and 1.5 GB, below 5 MB, ready within 1.5 s, with one
broken layer visible; for 200 × 1,000: ready within 0.6 s. Ready is when the map is drawn, counted from the start of the
navigation; the median of several visits of a fresh page.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from gradscope.records import STATISTICS, Quantity, Site, Statistic
from gradscope.trace import PER_STEP, TimeTable, Trace

SIZES = ((200, 1000), (1000, 5000))
VISITS = 5
WRITING = """
import json, resource, sys, time
from pathlib import Path
from gradscope.findings import Diagnosis
from gradscope.reports.html import Html
from gradscope.storage import read_trace
trace = read_trace(sys.argv[1])
healthy = Diagnosis(findings=(), not_judged=(), steps=len(trace.steps), sites=len(trace.sites))
start = time.perf_counter()
Html().write(trace, healthy, Path(sys.argv[2]))
seconds = time.perf_counter() - start
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def long_trace(layers: int, steps: int, *, broken: int) -> Trace:
    """Linear layers whose numbers wander, each with the noise of a real run; layer `broken` is NaN in one step."""
    draw = np.random.default_rng(0)
    quantities = (Quantity.OUTPUT, Quantity.OUTPUT_GRAD, Quantity.WEIGHT, Quantity.WEIGHT_GRAD, Quantity.WEIGHT_UPDATE)
    sites = tuple(
        Site(
            module=f"encoder.block{layer // 4}.layer{layer % 4}",
            module_type="Linear",
            quantity=quantity,
            name="weight" if quantity.value.startswith("weight") else "",
            depth=layer + 1,
        )
        for layer in range(layers)
        for quantity in quantities
    )
    shape = (steps, len(sites))
    values = np.exp(draw.normal(0, 0.5, shape) - np.arange(len(sites)) / 200).astype(np.float32)
    unknown = np.broadcast_to(np.float32(np.nan), shape)
    given = dict.fromkeys((Statistic.RMS, Statistic.L2_NORM, Statistic.ABS_MAX, Statistic.STD), values)
    given |= {Statistic.NUMEL: np.full(shape, 1024, np.float32), Statistic.NONFINITE_COUNT: np.zeros(shape, np.float32)}
    given[Statistic.NONFINITE_COUNT][steps // 3, broken * len(quantities) + 1] = 7
    none = np.zeros(0, np.int32)
    return Trace(
        meta={"model": "long"},
        sites=sites,
        steps=np.arange(steps, dtype=np.int64),
        per_step={name: np.full(steps, np.nan) for name in PER_STEP},
        statistics={s.value: given.get(s, unknown) for s in STATISTICS},
        times=TimeTable(
            step=none, site=none, time=none, statistics={s.value: np.zeros(0, np.float32) for s in STATISTICS}
        ),
    )


def ready_after(path: Path) -> tuple[float, float]:
    """Milliseconds from the navigation's start to a drawn map: the median and the largest of several visits."""
    from browser import chromium
    from playwright.sync_api import sync_playwright

    taken = []
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium())
        for _ in range(VISITS + 1):
            page = launched.new_page(viewport={"width": 1400, "height": 900})
            page.goto(path.as_uri())
            page.wait_for_function("document.documentElement.dataset.ready")
            taken.append(float(page.evaluate("Number(document.documentElement.dataset.ready)")))
            page.close()
        launched.close()
    return statistics.median(taken[1:]), max(taken[1:])  # the first visit pays for the browser's own start


@click.command()
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep the pages in this folder.")
def main(keep: Path | None) -> None:
    """Writes and opens a page of each size."""
    table = Table("layers × steps", "written in", "peak", "size", "ready (median)", "ready (slowest)")
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for layers, steps in SIZES:
            trace, page = folder / "long.h5", folder / f"long-{layers}.html"
            long_trace(layers, steps, broken=layers // 2).save(trace)
            done = subprocess.run(
                [sys.executable, "-c", WRITING, str(trace), str(page)], check=True, capture_output=True, text=True
            )
            seconds, peak = json.loads(done.stdout)
            median, slowest = ready_after(page)
            size = page.stat().st_size / 1e6
            cells = [f"{seconds:.1f} s", f"{peak:.0f} MiB", f"{size:.2f} MB", f"{median:.0f} ms", f"{slowest:.0f} ms"]
            table.add_row(f"{layers:,} × {steps:,}", *cells)
    Console().print(table)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()

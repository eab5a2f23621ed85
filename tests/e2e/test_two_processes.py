"""Two processes under DDP and FSDP2, merged, against one that is given their batches together."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from two_processes import CASES, RANKS, STEPS, train

from gradscope.merge import merge
from gradscope.records import COLUMN, STATISTICS
from gradscope.reports.by_rank import about_ranks
from gradscope.storage import read_trace
from gradscope.trace import Trace

EXACT = [name for name, case in CASES.items() if case.exact]
HANGS_AFTER_S = 150
SPREADS = ("sample_spread", "direction_spread")
BY_SIZE = ("mean", "std", "rms", "abs_max", "min", "max")  # compared to the largest of them: a mean may cancel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have left that went through all cases, once for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).parents[1] / "two_processes.py"
    paths = [str(script.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    logs = [folder / f"{rank}.log" for rank in range(RANKS)]
    ranks = []
    for rank, path in enumerate(logs):
        command = [sys.executable, str(script), str(rank), port, str(folder)]
        with path.open("w") as log:
            ranks.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
    try:
        codes = [process.wait(HANGS_AFTER_S) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert codes == [0] * RANKS, "\n".join(log.read_text() for log in logs)
    return folder


def merged(folder: Path, name: str) -> Trace:
    paths = [folder / f"{name}.rank{rank}.h5" for rank in range(RANKS)]
    return merge({str(path): read_trace(path) for path in paths})


def table(trace: Trace) -> dict[tuple[object, ...], np.ndarray]:
    """A row of statistics for each step, site and time; of the whole step at time None."""
    sites = [(site.module, site.quantity.value, site.name) for site in trace.sites]
    values = np.stack([trace.statistics[s] for s in STATISTICS], axis=2)
    rows = {
        (int(step), *site, None): values[i, j]
        for i, step in enumerate(trace.steps)
        for j, site in enumerate(sites)
        if not np.isnan(values[i, j, 0])
    }
    times = trace.times
    for step, site, time, row in zip(times.step, times.site, times.time, times.values, strict=True):
        rows[int(trace.steps[step]), *sites[site], int(time)] = row
    return rows


def without_symmetry(trace: Trace) -> Trace:
    """Rows that equal each other are looked for in whole weights only."""
    nothing = np.full_like(trace.statistics["symmetric_fraction"], np.nan)
    return dataclasses.replace(trace, statistics={**trace.statistics, "symmetric_fraction": nothing})


def deviations(one: Trace, other: Trace) -> dict[str, tuple[float, str]]:
    """The largest relative deviation of each statistic, and where; the two must have the same rows."""
    ours, theirs = table(one), table(other)
    assert ours.keys() == theirs.keys(), sorted(map(str, ours.keys() ^ theirs.keys()))[:10]
    worst: dict[str, tuple[float, str]] = {s.value: (0.0, "") for s in STATISTICS}
    for key, row in ours.items():
        wanted = theirs[key]
        largest = max(float(np.nan_to_num(wanted[COLUMN["abs_max"]])), 1e-14)  # below is rounding of zero
        for statistic in STATISTICS:
            if statistic in SPREADS:
                continue  # of the samples of each rank, see below
            if statistic == "zero_fraction" and key[3] == "in_proj_bias":
                continue  # the gradient of the keys' bias is zero, or what rounding leaves of it
            a, b = float(row[COLUMN[statistic]]), float(wanted[COLUMN[statistic]])
            assert np.isnan(a) == np.isnan(b), (key, statistic, a, b)
            if not np.isnan(a):
                size = largest if statistic in BY_SIZE else max(abs(b), 1e-14 if statistic == "l2_norm" else 1e-3)
                worst[statistic] = max(worst[statistic], (abs(a - b) / size, str(key)))
    return worst


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.usefixtures("folder")
def test_merged_ranks_are_what_one_process_records(
    name: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    single = trained_alone(name, tmp_path / "single.h5")
    whole = merged(folder, name)
    assert whole.steps.tolist() == single.steps.tolist()
    depths = [{(s.module, s.quantity, s.name): s.depth for s in trace.sites} for trace in (whole, single)]
    assert depths[0] == depths[1]
    assert not [event for event in whole.events if event.kind in ("ranks-differ", "probe-failed")]
    if name.startswith("fsdp"):
        assert np.isnan(whole.statistics["symmetric_fraction"]).all()
        single = without_symmetry(single)
    found = deviations(whole, single)
    print(name, max(found.values()))
    np.testing.assert_allclose(whole.per_step["loss"], single.per_step["loss"], rtol=1e-7)
    assert max(found.values())[0] < 1e-5, {s: w for s, w in found.items() if w[0] >= 1e-5}


@pytest.mark.parametrize("name", ["ddp", "ddp static graph"])
def test_a_merged_spread_is_the_mean_of_what_each_rank_has_measured_over_its_own_samples(
    name: str, folder: Path
) -> None:
    ranks = [read_trace(folder / f"{name}.rank{rank}.h5") for rank in range(RANKS)]
    whole = merged(folder, name)
    seen = 0
    for column in whole.columns("output"):
        site = whole.sites[column]
        size, *spreads = (
            np.stack([rank.series(site.module, "output", stat, name=site.name) for rank in ranks])
            for stat in ("numel", *SPREADS)
        )
        for stat, parts in zip(SPREADS, spreads, strict=True):
            mean = (parts * size).sum(axis=0) / size.sum(axis=0)
            found = whole.series(site.module, "output", stat, name=site.name)
            np.testing.assert_allclose(found, mean, rtol=1e-5)
            seen += int((~np.isnan(found)).sum())
    assert seen


def test_a_unit_that_is_silent_on_one_rank_only_is_not_dead(folder: Path) -> None:
    ranks = [read_trace(folder / f"ddp.rank{rank}.h5") for rank in range(RANKS)]
    dead = [trace.series("relu", "output", "dead_fraction")[-1] for trace in (*ranks, merged(folder, "ddp"))]
    assert dead[0] > dead[2] > 0
    assert dead[2] < 1


def test_a_rank_that_ended_early_does_not_cost_the_steps_before(folder: Path) -> None:
    whole = merged(folder, "ddp uneven")
    assert whole.steps.tolist() == list(range(STEPS - 3))
    assert "rank 1 did not record" in whole.events[-1].message


def test_the_rank_that_was_given_nan_is_named(folder: Path) -> None:
    whole = merged(folder, "ddp spoilt")
    assert about_ranks(whole) == "rank 1 alone has non-finite values at first: (model):input in step 9"
    assert whole.by_rank("first", "output", "nonfinite_count")[9].tolist() == [0, 21]


def test_gradients_that_are_averaged_by_hand_are_told_to_differ(folder: Path, tmp_path: Path) -> None:
    """Raw ones are local; those that were applied, and all else, are exact."""
    whole, single = merged(folder, "by hand"), trained_alone("by hand", tmp_path / "single.h5")
    (event,) = whole.events
    assert (event.kind, event.step) == ("ranks-differ", 0)
    assert "weight_grad and 5 more differ between the ranks" in event.message
    ours, theirs = table(whole), table(single)
    for key, row in theirs.items():
        if "raw" not in key and "weight_grad" not in key:
            np.testing.assert_allclose(ours[key][COLUMN["rms"]], row[COLUMN["rms"]], rtol=1e-5)


def test_the_older_fsdp_is_merged_but_for_the_gradients_that_it_hides(folder: Path, tmp_path: Path) -> None:
    whole, single = merged(folder, "fsdp1"), table(trained_alone("fsdp1", tmp_path / "single.h5"))
    ours = table(whole)
    hidden = {str(name if quantity == "total_norm" else quantity) for _, _, quantity, name, _ in single.keys() - ours}
    assert hidden == {"weight_grad", "raw"}
    for key, row in ours.items():
        np.testing.assert_allclose(row[COLUMN["rms"]], single[key][COLUMN["rms"]], rtol=1e-5)
    assert "hides the raw gradients" in whole.events[0].message


def test_what_was_sharded_after_attach_is_told(folder: Path) -> None:
    trace = read_trace(folder / "fsdp attached before.rank1.h5")
    (spot,) = trace.meta["blind_spots"]
    assert spot["module"] == ""
    assert "replaced after `attach`, as `fully_shard` does, and are not seen; attach after it" in spot["why"]
    assert not [event for event in trace.events if event.kind == "probe-failed"]


def trained_alone(name: str, path: Path) -> Trace:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        train(CASES[name], rank=None, trace=path)
    finally:
        torch.set_default_dtype(before)
    return read_trace(path)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rank", range(RANKS))
def test_watching_changes_no_bit_on_any_rank(name: str, rank: int, folder: Path) -> None:
    (bare_losses, bare), (losses, watched) = torch.load(folder / f"{name}.rank{rank}.pt")
    np.testing.assert_array_equal(losses, bare_losses)
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(bare, watched, strict=True))

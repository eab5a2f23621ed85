import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import pytest
from builders import trace_of
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import collected, run

from gradscope.errors import TraceError
from gradscope.records import COLUMN, STATISTICS, Quantity, Site, Statistic
from gradscope.trace import PER_STEP, StepRecord, Trace, TraceBuilder

runs = st.builds(lambda seed, steps: collected(islice(run(seed), steps)), st.integers(0, 999), st.integers(1, 25))


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def record_of(step: int, values: dict[int, float], times: dict[tuple[int, int], float], sites: int) -> StepRecord:
    """Every statistic of a site, or of a site at a time, has the one value given."""
    table = np.full((sites, len(STATISTICS)), np.nan, np.float32)
    for site, value in values.items():
        table[site] = value
    return StepRecord(
        step=step,
        per_step={},
        values=table,
        time_index=np.array(list(times), np.int32).reshape(-1, 2),
        time_values=np.repeat(np.array(list(times.values()), np.float32)[:, None], len(STATISTICS), axis=1),
    )


def lstm() -> Trace:
    """Two steps of an LSTM over three moments, and one in which the layer ran for one moment only."""
    sites = (
        Site(module="lstm", module_type="LSTM", quantity=Quantity.OUTPUT, name="0", depth=1),
        Site(module="fc", module_type="Linear", quantity=Quantity.OUTPUT, depth=2),
    )
    builder = TraceBuilder()
    moments = [{(0, t): 10.0 * step + t for t in range(3)} for step in range(2)]
    for step, times in enumerate([*moments, {}]):
        builder.append(record_of(5 * step, {0: 100.0 + step, 1: 200.0 + step}, times, 2), sites, {})
    return builder.finish(sites, {})


# ---------------------------------------------------------------- by time


def test_by_time_has_a_column_for_each_moment() -> None:
    expected = [[0, 1, 2], [10, 11, 12], [102, np.nan, np.nan]]
    np.testing.assert_array_equal(lstm().by_time("lstm", "output", "rms"), expected)


def test_by_time_of_a_site_without_time_has_one_column() -> None:
    np.testing.assert_array_equal(lstm().by_time("fc", "output", "rms"), [[200], [201], [202]])


@given(runs, st.data())
@settings(max_examples=40, deadline=None)
def test_by_time_is_what_a_loop_finds(trace: Trace, data: st.DataObject) -> None:
    site = trace.sites[data.draw(st.integers(0, len(trace.sites) - 1))]
    stat = data.draw(st.sampled_from(STATISTICS))
    column = trace.column(site.module, site.quantity, site.name)
    table = trace.by_time(site.module, site.quantity, stat, name=site.name)
    rows = list(zip(trace.times.step, trace.times.site, trace.times.time, trace.times.values, strict=True))
    assert table.shape == (len(trace.steps), 1 + max((t for _, s, t, _ in rows if s == column), default=0))
    for i in range(len(trace.steps)):
        of_step = {t: values[COLUMN[stat]] for step, s, t, values in rows if (step, s) == (i, column)}
        of_step = of_step or {0: trace.statistics[stat][i, column]}
        for t in range(table.shape[1]):
            assert same(table[i, t], of_step.get(t, math.nan))


# ---------------------------------------------------------------- by depth


def test_by_depth_goes_from_the_input_to_the_output() -> None:
    sites = tuple(
        Site(module=m, module_type="", quantity=Quantity.OUTPUT, depth=d) for m, d in (("c", 3), ("a", 1), ("b", 2))
    )
    builder = TraceBuilder()
    builder.append(record_of(0, {0: 3.0, 1: 1.0, 2: 2.0}, {}, 3), sites, {})
    found, rms = builder.finish(sites, {}).by_depth("output", "rms")
    assert [site.module for site in found] == ["a", "b", "c"]
    np.testing.assert_array_equal(rms, [[1, 2, 3]])


def test_by_depth_leaves_out_what_was_never_observed() -> None:
    trace = trace_of(output_rms=[[1.0, np.nan, 0.0], [np.nan, np.nan, 2.0]])
    found, rms = trace.by_depth(Quantity.OUTPUT, Statistic.RMS)
    assert [site.module for site in found] == ["0", "2"]
    np.testing.assert_array_equal(rms, [[1, 0], [np.nan, 2]])


def test_by_depth_leaves_out_what_has_no_elements_where_elements_are_asked_for() -> None:
    sites = tuple(Site(module="attention", module_type="", quantity=Quantity.OUTPUT, name=n) for n in ("", "head0"))
    builder = TraceBuilder()
    record = record_of(0, {0: 4.0}, {}, 2)
    record.values[1, [COLUMN["numel"], COLUMN["nonfinite_count"], COLUMN["attention_entropy"]]] = 0, 0, 0.5
    builder.append(record, sites, {})
    trace = builder.finish(sites, {})
    for stat in ("rms", "numel", "nonfinite_count"):
        assert trace.by_depth("output", stat)[0] == sites[:1]
    assert trace.by_depth("output", "attention_entropy")[0] == sites


@given(runs, st.sampled_from(Quantity), st.sampled_from(STATISTICS))
@settings(max_examples=40, deadline=None)
def test_by_depth_is_what_a_loop_finds(trace: Trace, quantity: Quantity, stat: Statistic) -> None:
    expected = []
    for i, site in enumerate(trace.sites):
        observed = False
        for numel, value in zip(trace.statistics["numel"][:, i], trace.statistics[stat][:, i], strict=True):
            counts = stat in ("numel", "nonfinite_count")
            observed |= numel > 0 or not (counts or math.isnan(numel) or math.isnan(value))
        if site.quantity == quantity and observed:
            expected.append((site.depth, i))
    sites, table = trace.by_depth(quantity, stat)
    assert sites == tuple(trace.sites[i] for _, i in sorted(expected))
    for column, (_, i) in enumerate(sorted(expected)):
        assert all(map(same, table[:, column], trace.statistics[stat][:, i]))


def test_observed_is_false_where_there_is_no_value() -> None:
    trace = trace_of(output_rms=[[1.0, np.nan], [0.0, np.nan]])
    assert trace.observed(0).tolist() == [True, True]
    assert trace.observed(1).tolist() == [False, False]


# ---------------------------------------------------------------- one site


def parameters() -> Trace:
    sites = tuple(
        Site(module=module, module_type="Linear", quantity=Quantity(quantity), name=name, depth=1)
        for module in ("net.fc1", "net.fc2")
        for quantity, name in ((Quantity.WEIGHT, "weight"), (Quantity.WEIGHT, "bias"), (Quantity.OUTPUT, ""))
    )
    builder = TraceBuilder()
    builder.append(record_of(0, {i: float(i) for i in range(len(sites))}, {}, len(sites)), sites, {})
    return builder.finish(sites, {})


@pytest.mark.parametrize(
    ("module", "name", "column"),
    [("net.fc2", None, 3), ("net.fc2", "bias", 4), ("net.fc2.bias", None, 4), ("net.fc2.weight", None, 3)],
)
def test_a_parameter_is_found_by_module_by_name_and_by_both_in_one(module: str, name: str | None, column: int) -> None:
    assert parameters().column(module, "weight", name) == column
    assert parameters().series(module, "weight", "mean", name=name).tolist() == [column]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.fc3", "weight"), "the trace has no weight of module 'net.fc3'; did you mean 'net.fc2'?"),
        (
            ("net.fc1", "weight", "wieght"),
            "the trace has no weight 'wieght' of module 'net.fc1'; did you mean 'weight'?",
        ),
        (("zzz", "output"), "the trace has no output of module 'zzz'; known are net.fc1, net.fc2."),
        (("net.fc1", "output_grad"), "the trace has no output_grad of module 'net.fc1'; none is known."),
        (("net.fc1", "outptu"), "'outptu' is no quantity; did you mean 'output'?"),
    ],
)
def test_a_misspelt_site_shows_the_way_out(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(TraceError) as caught:
        parameters().column(*arguments)
    assert str(caught.value) == message


def test_a_misspelt_statistic_shows_the_way_out() -> None:
    with pytest.raises(TraceError, match=r"'rsm' is no statistic; did you mean 'rms'\?"):
        parameters().series("net.fc1", "output", "rsm")


# ---------------------------------------------------------------- frame

COLUMNS = ["step", "time", "module", "module_type", "quantity", "name", "depth", *(s.value for s in STATISTICS)]


def frame_rows(trace: Trace) -> Iterator[tuple[object, ...]]:
    """What `to_frame` should hold, in its order, slowly."""
    keyed = []
    for i, step in enumerate(trace.steps):
        for j, site in enumerate(trace.sites):
            if not math.isnan(trace.statistics["numel"][i, j]):
                keyed.append((step, site.depth, j, -1, [trace.statistics[s][i, j] for s in STATISTICS]))
    for i, j, time, values in zip(
        trace.times.step, trace.times.site, trace.times.time, trace.times.values, strict=True
    ):
        keyed.append((trace.steps[i], trace.sites[j].depth, j, time, list(values)))
    for step, depth, j, time, values in sorted(keyed, key=lambda row: row[:4]):
        site = trace.sites[j]
        when = pd.NA if time < 0 else time
        yield step, when, site.module, site.module_type, site.quantity.value, site.name, depth, *values


@given(runs)
@settings(max_examples=25, deadline=None)
def test_the_frame_is_what_a_loop_finds(trace: Trace) -> None:
    frame = trace.to_frame()
    assert list(frame.columns) == COLUMNS
    expected = list(frame_rows(trace))
    found = list(frame.itertuples(index=False, name=None))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (pd.isna(a) and pd.isna(b)) or a == b


def test_the_columns_of_the_frame_have_plain_types() -> None:
    frame = lstm().to_frame()
    assert {c: str(frame[c].dtype) for c in ("step", "time", "depth", "rms")} == {
        "step": "int64",
        "time": "Int64",
        "depth": "int64",
        "rms": "float32",
    }
    assert all(pd.api.types.is_string_dtype(frame[c]) for c in ("module", "module_type", "quantity", "name"))
    assert frame["time"].isna().sum() == 6
    assert frame.loc[frame["time"].notna(), "rms"].tolist() == [0, 1, 2, 10, 11, 12]


def test_an_empty_trace_has_an_empty_frame() -> None:
    frame = TraceBuilder().finish((), {}).to_frame()
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 0


# ---------------------------------------------------------------- builder


def test_sites_that_appear_late_were_not_observed_before() -> None:
    appended = list(islice(run(3), 30))
    trace = collected(appended)
    assert trace.steps.tolist() == [3 * i for i in range(30)]
    for row, (record, _, _) in enumerate(appended):
        known = len(record.values)
        for i, stat in enumerate(STATISTICS):
            np.testing.assert_array_equal(trace.statistics[stat][row, :known], record.values[:, i])
            assert np.isnan(trace.statistics[stat][row, known:]).all()


def test_what_a_step_does_not_know_is_nan() -> None:
    trace = trace_of(steps=2, output_rms=[1.0], loss=[0.5, 0.25])
    assert trace.per_step["loss"].tolist() == [0.5, 0.25]
    assert np.isnan(trace.per_step["loss_scale"]).all()
    assert set(trace.per_step) == set(PER_STEP)


def test_finishing_twice_gives_the_later_steps_too() -> None:
    builder = TraceBuilder()
    for count, (record, sites, meta) in enumerate(islice(run(0), 5), start=1):
        builder.append(record, sites, meta)
        trace = builder.finish(sites, meta)
        assert len(trace.steps) == count
    builder.close()
    assert len(trace.events) == sum(len(record.events) for record, _, _ in islice(run(0), 5))


def test_a_parametrized_weight_is_found_by_its_full_name() -> None:
    site = Site(
        module="net.fc",
        module_type="Linear",
        quantity=Quantity.WEIGHT,
        name="parametrizations.weight.original",
        depth=1,
    )
    builder = TraceBuilder()
    builder.append(record_of(0, {0: 7.0}, {}, 1), (site,), {})
    trace = builder.finish((site,), {})
    assert trace.column("net.fc.parametrizations.weight.original", "weight") == 0


def test_columns_are_by_depth_whatever_the_order_of_registration():
    sites = [
        Site(module=module, module_type="Linear", quantity=Quantity(quantity), name=name, depth=depth)
        for module, quantity, name, depth in [
            ("b", "weight", "weight", 2),
            ("a", "output", "", 1),
            ("a", "weight", "weight", 1),
            ("a", "weight", "bias", 1),
        ]
    ]
    trace = replace(trace_of(output_rms=[1.0]), sites=tuple(sites))
    for wanted in itertools.product(("weight", "output"), (None, "a", "b", "c"), (None, "weight", "bias")):
        said = dict(zip(("quantity", "module", "name"), wanted, strict=True))
        found = [i for i, s in enumerate(sites) if all(v is None or getattr(s, k) == v for k, v in said.items())]
        assert trace.columns(*wanted) == sorted(found, key=lambda i: sites[i].depth)
    trace.columns("weight").clear()
    assert trace.columns("weight") == [2, 3, 0]

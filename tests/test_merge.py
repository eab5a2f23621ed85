"""Merging by hand-made numbers; tests/e2e/test_two_processes.py has two processes that really train."""

import dataclasses

import numpy as np
import pytest
import torch
from builders import rank_trace
from hypothesis import given
from hypothesis import strategies as st
from synthetic import assert_same

from gradscope.errors import TraceError
from gradscope.merge import merge
from gradscope.records import COLUMN, STATISTICS, Event, Quantity, Site
from gradscope.statistics import measure
from gradscope.storage import read_trace, save_trace
from gradscope.trace import StepRecord, TraceBuilder

NO_TIMES = np.zeros((0, 2), np.int32), np.zeros((0, len(STATISTICS)), np.float32)


def site(quantity, module="fc", name=""):
    return Site(module=module, module_type="Linear", quantity=Quantity(quantity), name=name, depth=1)


def recorded(rank, sites, steps, *, world_size=2, parameters="replicated", **meta):
    """A rank's trace; each of `steps` has a row, or None, for each site, and maybe more fields of `StepRecord`."""
    builder = TraceBuilder()
    for number, (rows, more) in enumerate(steps):
        values = np.full((len(sites), len(STATISTICS)), np.nan, dtype=np.float32)
        for column, row in enumerate(rows):
            if row is not None:
                values[column] = row
        fields = {"per_step": {}, "time_index": NO_TIMES[0], "time_values": NO_TIMES[1], **more}
        builder.append(StepRecord(step=number, values=values, **fields), sites, {})
    about = {"rank": rank, "world_size": world_size, "parameters": parameters}
    return builder.finish(sites, {"distributed": about, **meta})


def whole(*traces):
    return merge({f"run.rank{i}.h5": trace for i, trace in enumerate(traces)})


def row_of(trace, column, step=0):
    return np.array([trace.statistics[s][step, column] for s in STATISTICS])


parts = st.lists(st.integers(1, 9), min_size=2, max_size=4)


@given(parts, st.integers(0, 1000))
def test_outputs_are_those_of_all_ranks_and_their_gradients_of_the_mean_loss(sizes, seed):
    torch.manual_seed(seed)
    sites = [site("output"), site("output_grad"), site("state_grad"), site("input_grad")]
    tensors = [torch.randn(size, 3) for size in sizes]
    ranks = [recorded(i, sites, [([measure(x)] * 4, {})], world_size=len(sizes)) for i, x in enumerate(tensors)]
    merged, together = whole(*ranks), torch.cat(tensors)
    for column, wanted in enumerate([measure(together), *[measure(together / len(sizes))] * 3]):
        scale = float(wanted[COLUMN["abs_max"]])
        np.testing.assert_allclose(row_of(merged, column), wanted, rtol=1e-5, atol=1e-6 * scale)


def test_a_site_that_one_rank_lacks_or_has_not_seen_is_that_of_the_others():
    x = measure(torch.tensor([1.0, 2.0]))
    merged = whole(
        recorded(0, [site("output")], [([None], {}), ([x], {})]),
        recorded(1, [site("output", "extra"), site("output")], [([x, x], {}), ([None, None], {})]),
    )
    assert [(s.module, s.depth) for s in merged.sites] == [("fc", 2), ("extra", 1)]
    np.testing.assert_array_equal(merged.statistics["numel"], [[2, 2], [2, np.nan]])
    np.testing.assert_array_equal(merged.ranks.statistics["rms"][1, 0], [x[COLUMN["rms"]], np.nan])


def test_entropies_are_weighted_by_the_rows_that_a_module_returned_though_a_head_has_none():
    sites = [site("output"), site("output", name="head0")]
    ranks = []
    for rank, (size, entropy, logit) in enumerate([(4, 1.0, -3.0), (12, 0.5, 7.0)]):
        rows = [measure(torch.ones(size)), measure(torch.ones(0))]
        for row in rows:
            row[COLUMN["attention_entropy"]], row[COLUMN["max_logit"]] = entropy, logit
        ranks.append(recorded(rank, sites, [(rows, {}), ([rows[0], None], {})]))
    merged = whole(*ranks)
    for name, last in (("", 10 / 16), ("head0", np.nan)):
        entropy = merged.series("fc", "output", "attention_entropy", name=name)
        np.testing.assert_allclose(entropy, [10 / 16, last])
        assert merged.series("fc", "output", "max_logit", name=name)[0] == 7


WEIGHT = [site("weight", name="weight")]
SHAPES = {"fc.weight": [4]}


def test_replicas_are_taken_once_with_what_only_a_whole_weight_tells():
    row = measure(torch.arange(4.0))
    row[COLUMN["symmetric_fraction"]] = 0.5
    merged = whole(*[recorded(r, WEIGHT, [([row], {})], shapes=SHAPES) for r in range(2)])
    np.testing.assert_array_equal(row_of(merged, 0), row)
    assert merged.events == ()


@pytest.mark.parametrize(("factor", "sizes"), [(1.5, "1.87, 2.81"), (1.0005, "1.871, 1.872")])
def test_replicas_that_differ_are_told(factor, sizes):
    rows = [measure(torch.arange(4.0)), measure(torch.arange(4.0) * factor)]
    merged = whole(*[recorded(r, WEIGHT, [([row], {})], shapes=SHAPES) for r, row in enumerate(rows)])
    message = f"fc.weight:weight differ between the ranks (rms {sizes}), so they are those of rank 0"
    assert merged.events == (Event(step=0, kind="ranks-differ", module="fc", message=message),)
    np.testing.assert_array_equal(row_of(merged, 0), rows[0])


@pytest.mark.parametrize("copies", [1, 2])
def test_shards_add_up_also_where_several_ranks_hold_the_same(copies):
    x = torch.tensor([3.0, -1.0, 0.0, torch.nan])
    shards = [x[:3], x[3:]] * copies
    ranks = [
        recorded(r, WEIGHT, [([measure(s)], {})], world_size=len(shards), parameters="sharded", shapes=SHAPES)
        for r, s in enumerate(shards)
    ]
    np.testing.assert_allclose(row_of(whole(*ranks), 0), measure(x), rtol=1e-6)


def test_an_empty_shard_adds_nothing():
    shards = [torch.arange(4.0), torch.zeros(0)]
    ranks = [
        recorded(r, WEIGHT, [([measure(s)], {})], parameters="sharded", shapes=SHAPES) for r, s in enumerate(shards)
    ]
    np.testing.assert_allclose(row_of(whole(*ranks), 0), measure(shards[0]), rtol=1e-6)


def test_a_unit_is_dead_that_is_silent_on_every_rank():
    rng = np.random.default_rng(0)
    silent = rng.random((2, 20, 11)) < [[[0.97]], [[0.9]]]
    row = measure(torch.ones(11))
    ranks = [
        recorded(r, [site("output", f"other{r}"), site("output")], [([row, row], {"silent": [(1, s)]}) for s in units])
        for r, units in enumerate(silent)
    ]
    merged = whole(*ranks)
    together = silent.all(axis=0)
    dead = merged.series("fc", "output", "dead_fraction")
    assert dead.tolist() == pytest.approx([together[max(0, s - 7) : s + 1].all(axis=0).mean() for s in range(20)])
    assert len(set(dead.tolist())) > 2
    assert np.isnan(merged.series("other0", "output", "dead_fraction")).all()
    assert not len(merged.units.step)


def test_the_loss_is_the_mean_and_total_norms_are_of_the_merged_gradients():
    sites = [
        site("weight_grad", name="weight"),
        site("applied_grad", name="weight"),
        site("weight_grad", "frozen", "weight"),
        site("total_norm", "", "raw"),
        site("total_norm", "", "applied"),
        site("loss", ""),
    ]
    shapes = {"fc.weight": [4], "frozen.weight": [4]}
    ranks = []
    for rank, loss in enumerate([1.0, 4.0]):
        half = measure(torch.full((2,), 3.0 + rank))
        other = measure(torch.zeros(1))
        rows = [half, half, half, other, other, other]
        record = (rows, {"per_step": {"loss": loss, "lr": 0.1}})
        ranks.append(recorded(rank, sites, [record], parameters="sharded", shapes=shapes))
    merged = whole(*ranks)
    norm = np.sqrt(2 * 9 + 2 * 16)
    assert merged.series("", "total_norm", "l2_norm", name="raw")[0] == pytest.approx(norm)
    assert merged.series("", "total_norm", "l2_norm", name="applied")[0] == pytest.approx(norm)
    assert merged.per_step["loss"].tolist() == [2.5]
    assert merged.series("", "loss", "mean").tolist() == [2.5]
    assert merged.per_step["lr"].tolist() == [0.1]


def test_times_that_only_some_ranks_have_are_kept():
    sites = [site("output"), site("output_grad")]
    x = [torch.randn(2, 3) for _ in range(4)]
    several = {
        "time_index": np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32),
        "time_values": np.stack([measure(t) for t in (x[0], x[1], x[0], x[1])]),
    }
    both = measure(torch.cat([x[0], x[1]]))
    merged = whole(
        recorded(0, sites, [([both, both], several), ([None, None], {})]),
        recorded(1, sites, [([measure(x[2]), measure(x[2])], {}), ([measure(x[3]), None], {})]),
    )
    wanted = [measure(torch.cat([x[0], x[2]])), measure(x[1])]
    rms = merged.by_time("fc", "output", "rms")
    np.testing.assert_allclose(rms[0], [row[COLUMN["rms"]] for row in wanted], rtol=1e-6)
    np.testing.assert_allclose(rms[1], [measure(x[3])[COLUMN["rms"]], np.nan], rtol=1e-6)
    np.testing.assert_allclose(merged.by_time("fc", "output_grad", "rms")[0], rms[0] / 2, rtol=1e-6)


def test_steps_that_a_rank_did_not_live_to_see_are_left_out():
    row = measure(torch.ones(3))
    merged = whole(*[recorded(r, [site("output")], [([row * (s + 1)], {}) for s in range(5 - r)]) for r in range(2)])
    assert merged.steps.tolist() == [0, 1, 2, 3]
    assert merged.series("fc", "output", "rms").tolist() == [1, 2, 3, 4]
    (event,) = merged.events
    assert event.message == "step 4 is left out: rank 1 did not record all of them"


def test_what_each_rank_measured_is_kept_on_disk_too(tmp_path):
    merged = whole(rank_trace(0, output_rms=[1.0, 2.0]), rank_trace(1, output_rms=[3.0, 4.0]))
    save_trace(merged, tmp_path / "run.h5")
    again = read_trace(tmp_path / "run.h5")
    assert_same(again, merged)
    assert again.ranks.ranks == (0, 1)
    np.testing.assert_array_equal(again.by_rank("1", "output", "rms"), [[2.0, 4.0]] * 10)
    with pytest.raises(TraceError, match=r"'mean' is not kept of each rank; known are nonfinite_count, rms"):
        again.by_rank("1", "output", "mean")


def test_more_steps_than_fit_into_a_block_are_merged():
    ranks = [rank_trace(r, steps=150, output_rms=[1.0 + r]) for r in range(2)]
    assert whole(*ranks).series("0", "output", "rms") == pytest.approx(np.full(150, np.sqrt(2.5)))
    assert dataclasses.asdict(whole(*ranks).ranks)["ranks"] == (0, 1)

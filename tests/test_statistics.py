"""Statistics against a slow, obvious implementation in long double, and by law."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradscope import statistics
from gradscope.records import COLUMN, STATISTICS
from gradscope.statistics import (
    fraction_where,
    fractions_where,
    measure,
    measure_many,
    moments_of,
    rows_of,
    slice_moments,
)

LARGEST = float(np.finfo(np.float32).max)


def slowly(x: torch.Tensor) -> dict[str, float]:
    """Every statistic from its definition, element by element in the widest float there is."""
    dense = x.detach().to_dense() if x.layout is not torch.strided else x.detach()
    dense = dense.abs() if dense.is_complex() else dense
    all_of_it = dense.double().numpy().ravel().astype(np.longdouble)
    kept = all_of_it[np.isfinite(all_of_it)]
    numbers = {"numel": float(len(all_of_it)), "nonfinite_count": float(len(all_of_it) - len(kept))}
    if len(all_of_it):
        numbers["zero_fraction"] = float((all_of_it == 0).mean())
    if len(kept):
        numbers |= {
            "mean": kept.mean(),
            "std": kept.std(),
            "rms": np.sqrt((kept**2).mean()),
            "l2_norm": np.sqrt((kept**2).sum()),
            "abs_max": abs(kept).max(),
            "min": kept.min(),
            "max": kept.max(),
        }
    return {name: float(np.clip(value, -LARGEST, LARGEST)) for name, value in numbers.items()}


def assert_measures(row: NDArray[np.float32], x: torch.Tensor) -> None:
    wanted = slowly(x)
    for name in ("numel", "nonfinite_count", "zero_fraction", "mean", "std", "rms", "l2_norm", "abs_max", "min", "max"):
        got = row[COLUMN[name]]
        if name not in wanted:
            assert np.isnan(got), name
            continue
        # the mean of numbers that cancel is known to the precision of their size
        scale = max(abs(wanted[name]), wanted.get("rms", 0.0) if name == "mean" else 0.0)
        assert got == pytest.approx(wanted[name], rel=1e-5, abs=1e-5 * scale + 1e-45), name


SHAPES = {
    "normal": lambda x: x,
    "narrow around a half": lambda x: 1e-3 * x + 0.5,
    "far from zero": lambda x: x + 1e4,
    "tiny": lambda x: x * 1e-25,
    "subnormal": lambda x: x * 1e-42,
    "huge": lambda x: x * 1e30,
    "constant": lambda x: x * 0 + 3,
    "zero": lambda x: x * 0,
    "negative zero": lambda x: -(x * 0).abs(),
    "rectified": torch.relu,
    "float64, huge": lambda x: x.double() * 1e200,
    "float64, tiny": lambda x: x.double() * 1e-200,
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "complex": lambda x: torch.complex(x, 1 - x),
    "one outlier": lambda x: torch.cat([x[:-1] * 1e-3, x[-1:] * 0 + 1e15]) if len(x) else x,
}


@pytest.mark.parametrize("n", [0, 1, 7, 4096, 5000, 70_001, (1 << 19) + 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_statistic_is_what_its_definition_says(shape, n):
    x = shape(torch.randn(n, generator=torch.Generator().manual_seed(n)))
    assert_measures(measure(x), x)
    assert_measures(measure_many([x, torch.ones(3), x])[2], x)


@pytest.mark.parametrize("n", [3, 4096, 70_001, (1 << 19) + 3])
@pytest.mark.parametrize("shape", [v for k, v in SHAPES.items() if k != "complex"])
def test_nan_and_inf_are_counted_and_left_out(shape, n):
    x = shape(torch.randn(n, generator=torch.Generator().manual_seed(n))).clone()
    x[0], x[n // 2], x[-1] = math.nan, math.inf, -math.inf
    assert_measures(measure(x), x)
    assert_measures(measure_many([x, x])[1], x)


def test_a_tensor_of_nan_was_observed_and_has_no_mean():
    row = measure(torch.full((5000,), math.nan))
    assert (row[COLUMN["numel"]], row[COLUMN["nonfinite_count"]]) == (5000, 5000)
    assert np.isnan(row[[COLUMN["mean"], COLUMN["rms"], COLUMN["min"]]]).all()


def test_an_element_of_1e30_is_finite_and_so_is_the_norm():
    for x in (torch.full((10,), 1e30), torch.full((100_000,), 1e30)):
        row = measure(x)
        assert row[COLUMN["nonfinite_count"]] == 0
        assert row[COLUMN["rms"]] == pytest.approx(1e30)
    assert measure(torch.full((100_000,), 3e38))[COLUMN["l2_norm"]] == np.float32(LARGEST)


LAYOUTS = {
    "transposed": torch.randn(80, 90).t(),
    "strided": torch.randn(80, 90)[:, ::2],
    "channels last": torch.randn(4, 16, 10, 10).to(memory_format=torch.channels_last),
    "permuted": torch.randn(5, 6, 7, 30).permute(2, 0, 3, 1),
    "expanded": torch.randn(80, 1).expand(80, 90),
    "expanded scalar": torch.tensor(2.5).expand(100, 100),
    "0-dim": torch.tensor(3.0),
    "negated view": torch.randn(9000).resolve_neg().neg(),
    "integers": torch.arange(-3, 9),
    "sparse": (torch.eye(50) * 2).to_sparse(),
    "sparse, negative": (torch.eye(3) * -2).to_sparse(),
    "sparse, empty": torch.zeros(5, 5).to_sparse(),
    "sparse, uncoalesced": torch.sparse_coo_tensor([[0, 0, 1]], [1.0, 2.0, 0.0], (4,), check_invariants=True),
    "no elements": torch.zeros(0, 3),
}


@pytest.mark.parametrize("x", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_does_not_matter(x):
    assert_measures(measure(x), x)
    assert_measures(measure_many([x])[0], x)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
def test_compressed_sparse_rows_are_measured():
    x = (torch.eye(6) * -2).to_sparse_csr()
    assert_measures(measure(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [100, 100_000])
def test_sixteen_bit_floats_tell_their_subnormals(dtype, n):
    tiny = torch.finfo(dtype).tiny
    x = torch.ones(n, dtype=dtype)
    x[: n // 4] = tiny / 2
    x[n // 4 : n // 2] = 0
    assert measure(x)[COLUMN["underflow_fraction"]] == pytest.approx((n // 4) / n)
    assert np.isnan(measure(x.float())[COLUMN["underflow_fraction"]])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_slices_are_measured_one_by_one(axis, dtype):
    x = torch.randn(6, 7, 8)
    x[:, 3] *= 1e-30
    x[:, 4] = 0
    x[2, 5, 1] = math.nan
    x = x.to(dtype)
    rows = rows_of(slice_moments(x, axis))
    for t in range(x.shape[axis]):
        assert_measures(rows[t], x.select(axis, t))


def test_a_sequence_of_scalars_has_slices():
    assert rows_of(slice_moments(torch.tensor([1.0, -2.0]), 0))[:, COLUMN["mean"]].tolist() == [1, -2]


def test_the_device_path_agrees_with_the_cpu_path():
    for shape in SHAPES.values():
        x = shape(torch.randn(5000))
        x = x.abs() if x.is_complex() else x
        assert_measures(rows_of(statistics._row_moments(x.reshape(1, -1)).numpy())[0], x)
    x = torch.randn(100)
    x[3], x[4] = math.nan, -math.inf
    assert_measures(rows_of(statistics._row_moments(x.reshape(1, -1)).numpy())[0], x)
    assert_measures(
        rows_of(statistics._row_moments(torch.tensor([[-2.0, -3.0]]), 4).numpy())[0],
        torch.tensor([-2.0, -3, 0, 0, 0, 0]),
    )
    assert_measures(rows_of(statistics._row_moments(torch.zeros(1, 0)).numpy())[0], torch.zeros(0))


def test_slices_left_on_a_device_are_fetched_in_their_places():
    here, there, more = (torch.randn(n, 5) for n in (2, 3, 4))
    batches = [statistics._row_moments(there), statistics.many_moments(list(here)), statistics._row_moments(more)]
    for part, x in zip(statistics.fetch_many(batches), (there, here, more), strict=True):
        for row, tensor in zip(rows_of(part), x, strict=True):
            assert_measures(row, tensor)


def test_gates_that_hardly_move_and_gradients_that_have_vanished_keep_their_digits():
    x = 0.5 + 1e-3 * torch.randn(6, 50)
    x[3] = 1e-25 * torch.randn(50)
    for row, tensor in zip(rows_of(slice_moments(x, 0)), x, strict=True):
        assert_measures(row, tensor)


def test_moments_left_on_a_device_are_fetched_in_their_places():
    first, second = torch.randn(10), torch.randn(20)
    moments = [moments_of(first), statistics._row_moments(second[None])[0]]
    rows = rows_of(statistics.fetch(moments))
    assert_measures(rows[0], first)
    assert_measures(rows[1], second)


finite_floats = st.floats(-1e6, 1e6, width=32).map(lambda v: 0.0 if abs(v) < 1e-6 else v)
vectors = st.lists(finite_floats, min_size=1, max_size=40)


@given(vectors, st.randoms(use_true_random=False))
def test_order_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    scale = max(abs(v) for v in values)
    np.testing.assert_allclose(
        measure(torch.tensor(values)), measure(torch.tensor(shuffled)), rtol=1e-5, atol=1e-6 * scale
    )


@pytest.mark.parametrize("n", [7, 1 << 20])
def test_a_fraction_is_the_mean_of_its_predicate(n):
    x = torch.randn(n)
    assert fraction_where(x, lambda y: y > 1) == pytest.approx(float((x > 1).double().mean()))


def test_fractions_of_many_are_those_of_each():
    tensors = [torch.randn(3, 4), torch.randn(5), torch.ones(1)]
    together = fractions_where(tensors, lambda y: y > 0)
    assert together.tolist() == pytest.approx([fraction_where(x, lambda y: y > 0) for x in tensors])


def test_a_row_has_every_statistic_in_its_order():
    assert measure(torch.ones(2)).shape == (len(STATISTICS),)
    assert [COLUMN[s.value] for s in STATISTICS] == list(range(len(STATISTICS)))

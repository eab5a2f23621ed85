import numpy as np
import pytest
from builders import rank_trace, trace_of

from gradscope.merge import merge
from gradscope.reports.by_rank import about_ranks


def merged(*ranks):
    return merge({str(i): rank_trace(i, len(ranks), **values) for i, values in enumerate(ranks)})


def test_a_rank_says_which_it_is_and_how_to_get_the_whole():
    assert about_ranks(rank_trace(1)) == "rank 1 of 2 only; for all: `gradscope merge run.rank*.h5 -o run.h5`"


def test_one_process_and_ranks_that_agree_have_nothing_to_tell():
    assert about_ranks(trace_of(output_rms=[1.0])) is None
    assert about_ranks(merged({"output_rms": [1.0, 2.0]}, {"output_rms": [9.0, 0.3]})) is None


def test_a_rank_that_alone_is_not_finite_is_named_with_its_first_site():
    sick = np.zeros((10, 3))
    sick[4, 1:] = 2
    sick[5:] = 5
    later = np.zeros((10, 3))
    later[5:] = 5
    fine = {"output_rms": np.ones((10, 3)), "output_nonfinite_count": later}
    trace = merged(fine, {**fine, "output_nonfinite_count": sick}, fine)
    assert about_ranks(trace) == "rank 1 alone has non-finite values at first: 1:output in step 4"


def test_where_all_ranks_are_not_finite_at_once_none_is_to_blame():
    sick = {"output_rms": np.ones((10, 1)), "output_nonfinite_count": np.ones((10, 1))}
    assert about_ranks(merged(sick, sick)) is None


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((1.0, 50.0), "rank 1 is off: 0:output_grad is 50 times as large as on the other"),
        ((1.0, 2.0, 50.0), "rank 2 is off: 0:output_grad is 25 times as large as on the others"),
        ((1.0, 2.0, 0.01), "rank 2 is off: 0:output_grad is 100 times smaller than on the others"),
    ],
)
def test_a_rank_that_is_by_far_out_of_scale_is_named(sizes, said):
    trace = merged(*({"output_grad_rms": [size]} for size in sizes))
    assert about_ranks(trace) == f"{said} (rms, median over the steps)"

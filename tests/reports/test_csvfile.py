from io import StringIO

import pandas as pd
from examples import HEALTHY, network, with_times

from gradscope.reports.csvfile import CsvFile


def test_the_frame_survives_csv():
    trace = network(0.25)
    stream = StringIO()
    assert CsvFile().write(trace, HEALTHY, stream) == ()
    stream.seek(0)
    read = pd.read_csv(stream, keep_default_na=True)
    frame = trace.to_frame()
    assert list(read.columns) == list(frame.columns)
    assert len(read) == len(frame) == 10 * 30
    pd.testing.assert_series_equal(read["rms"], frame["rms"], check_dtype=False, rtol=1e-6)


def test_time_is_empty_where_a_row_is_over_the_whole_step(tmp_path):
    import numpy as np

    (path,) = CsvFile().write(with_times(network(0.9, steps=1), np.ones((1, 3))), HEALTHY, tmp_path)
    assert path.name == "frame.csv"
    read = pd.read_csv(path)
    assert read["time"].notna().sum() == 3

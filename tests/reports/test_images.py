from io import StringIO

import pytest
from builders import trace_of
from examples import HEALTHY, network

from gradscope.errors import UsageError
from gradscope.reports.images import Images

PNG = Images("png", "figures as pixels")


def test_a_folder_gets_every_figure(tmp_path):
    names = [path.name for path in PNG.write(network(0.5), HEALTHY, tmp_path / "new")]
    assert names == ["gradient-by-depth.png", "loss.png", "heatmap.png"]


def test_a_file_gets_the_first(tmp_path):
    assert PNG.write(network(0.5), HEALTHY, tmp_path / "a.png") == (tmp_path / "a.png",)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_a_stream_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match=r"`--format png` writes files; say where: `-o FOLDER` or `-o FILE\.png`"):
        PNG.write(network(0.5), HEALTHY, StringIO())


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(UsageError, match="no gradient and no loss to draw"):
        PNG.write(trace_of(weight_rms=[1.0]), HEALTHY, tmp_path / "a.png")

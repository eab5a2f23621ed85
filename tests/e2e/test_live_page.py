"""The live page, in a browser and without one, of a recording in another process."""

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from browser import visit
from builders import trace_of
from script_runs import ENVIRONMENT
from synthetic import run

from gradscope.storage import TraceWriter

HOSTILE = "</script><img src=x onerror=alert(1)>"


@dataclass
class Served:
    address: str
    path: Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """The page of a sick network, whose process is this machine's alone."""
    path = tmp_path / "run.h5"
    counts = np.zeros((60, 6))
    counts[40:, 4:] = 7
    trace_of(
        output_rms=np.ones((60, 6)),
        output_nonfinite_count=counts,
        modules=["one", "two", "three", "four", HOSTILE, "six"],
        loss=np.linspace(1, 0.5, 60),
        meta={"model": HOSTILE},
    ).save(path)
    words = [sys.executable, "-m", "gradscope", "live", str(path), "--web"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as server:
        assert server.stdout is not None
        yield Served(server.stdout.readline().strip(), path)
        server.terminate()


def code_of(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_only_who_knows_the_token_gets_anything(served: Served) -> None:
    found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/([\w-]{32})", served.address)
    assert found is not None
    host, token = found.groups()
    other = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert code_of(served.address) == 200
    for path in ("", other, f"{other}/ws", f"{token}x", f"{token}x/ws", token[:-1], f"x/{token}", "autoload.js", "ws"):
        assert code_of(f"{host}/{path}") == 403, path
    assert code_of(f"{served.address}/ws") != 200, "a session's signature is asked for"


def test_a_browser_shows_it_and_what_comes_after(browser, served: Served) -> None:
    with visit(browser, served.address, width=1400) as visited:
        page = visited.page
        page.get_by_text("the recording has ended").wait_for()
        page.get_by_text("non-finite").first.wait_for()
        assert page.get_by_text(HOSTILE).count() >= 2, "as text, in the heading and at the finding"
        layer = page.locator("select").nth(1)
        assert layer.locator("option").all_inner_texts() == ["one", "two", "three", "four", HOSTILE, "six"]
        layer.select_option(HOSTILE)
        trace_of(output_rms=np.ones((80, 3)), modules=["a", "b", "c"], meta={"model": "Second"}).save(served.path)
        page.get_by_text("80 steps recorded").wait_for()
        page.get_by_text("Second").wait_for()
        assert layer.locator("option").all_inner_texts() == ["a", "b", "c"]
        assert all(url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:")) for url in visited.requests)
        empty = ("initial ranges", "for log axis")  # what Bokeh says of a figure that has no points yet
        assert not [said for said in visited.complaints if not any(words in said for words in empty)]


def test_a_click_on_the_map_chooses_the_layer(browser, served: Served) -> None:
    with visit(browser, served.address, width=1400) as visited:
        page = visited.page
        page.get_by_text("non-finite").first.wait_for()
        boxes = [drawn.bounding_box() for drawn in page.locator(".bk-Figure").all()]
        box = max((box for box in boxes if box is not None), key=lambda box: box["height"])  # the lines are lower
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 30)
        # the last layer is at the top; the select stands in a shadow root, which a locator looks into
        page.locator("select").nth(1).locator("option:checked", has_text="six").wait_for(state="attached")


def test_it_leaves_with_the_run_where_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    words = [sys.executable, "-m", "gradscope", "live", str(path), "--web", "--until-end"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("http://127.0.0.1:")
        writer = TraceWriter(path)
        for one in islice(run(1), 40):
            writer.append(*one)
        writer.close()
        assert server.wait(timeout=60) == 0
    assert os.path.exists(path)

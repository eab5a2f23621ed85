"""What a notebook shows, in a browser: nothing runs, nothing is asked for, all of it can be seen."""

import pytest
from browser import visit
from builders import trace_of
from examples import diagnosis, finding

from gradscope.reports.notebook import scope_html

HOSTILE = "</script></details><img src=x onerror=console.error(1)><script>console.error(2)</script>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_names_run_nothing_and_are_read(browser, tmp_path, scheme):
    trace = trace_of(modules=[f"{HOSTILE}{i}" for i in range(4)], output_grad_rms=[1.0] * 4, loss=1.0)
    shown = scope_html(trace, diagnosis(finding(module=HOSTILE), finding(module="b", caused_by=None)), running=True)
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{shown}", encoding="utf-8")
    with visit(browser, page, scheme=scheme, width=700) as visited:
        assert visited.page.locator("img, script").count() == 0
        assert visited.page.get_by_text("</script>").first.is_visible()
        assert visited.page.locator("details p:has-text('remedy')").first.is_visible()
        assert visited.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visited.requests == []
    assert visited.complaints == []

"""What the tests of pages listen with hears what it should."""

from browser import visit


def write(path, body):
    path.write_text(f"<!doctype html><meta charset=utf-8><title>page</title>{body}", encoding="utf-8")
    return path


def test_a_quiet_page_is_heard_as_quiet(browser, tmp_path):
    page = write(tmp_path / "a page.html", "<p>here</p><img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>")
    with visit(browser, page) as visited:
        assert visited.page.inner_text("p") == "here"
        assert visited.page.title() == "page"
    assert visited.requests == []
    assert visited.complaints == []


def test_requests_errors_and_exceptions_are_heard(browser, tmp_path):
    said = (
        "<script>console.error('said');"
        "setTimeout(() => { document.title = 'thrown'; throw new Error('thrown'); }, 0)</script>"
    )
    (tmp_path / "other.css").write_text("", encoding="utf-8")
    page = write(tmp_path / "page.html", f"<link rel=stylesheet href=other.css>{said}")
    with visit(browser, page) as visited:
        visited.page.wait_for_function("document.title === 'thrown'")
    assert [url.rpartition("/")[2] for url in visited.requests] == ["other.css"]
    assert visited.complaints == ["said", "thrown"]


def test_scheme_width_and_scripts_are_as_wanted(browser, tmp_path):
    page = write(
        tmp_path / "page.html",
        "<style>@media (prefers-color-scheme: dark) { body { background: rgb(1, 2, 3) } }</style>"
        "<noscript><p>none</p></noscript>",
    )
    with visit(browser, page, scheme="dark", width=700) as visited:
        background = "getComputedStyle(document.body).backgroundColor"
        assert visited.page.evaluate(f"[{background}, innerWidth]") == ["rgb(1, 2, 3)", 700]
    with visit(browser, page, scripts=False) as visited:
        assert visited.page.inner_text("p") == "none"

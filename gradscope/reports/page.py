"""A page that stands alone: sections from templates, Bokeh's figures, and all that they need, in one file.

What a section says comes from its template in the folder `page`, which Jinja escapes; what it draws are figures of
Bokeh's, and what its script reads are JSON documents. Nothing is loaded from anywhere: a double click opens the file.

    Section(...)                       one for each part of the report; made by `page_verdict`, `page_map`, ...
    page_of("run.h5", sections)        the whole document

A template puts a figure where it writes ``<div data-figure="name">``; `page/page.js` embeds it when it comes into view.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

from bokeh.embed import json_item
from bokeh.models.ui import UIElement
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gradscope.findings import Json

_FOLDER = Path(__file__).with_name("page")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Section:
    """One part of a page.

    Attributes:
        anchor: Its id; the page's contents link to it.
        title: What stands over it, and in the contents.
        template: File in the folder `page`.
        context: What the template reads.
        figures: By the names under which the template places them; a name is unique in a page.
        data: JSON documents for the scripts, by names that are unique in a page.
        scripts: Files in the folder `page` that bring it to life; a page includes each once.
        styles: Files in the folder `page` with what it looks like, beside `page.css`; likewise.
    """

    anchor: str
    title: str
    template: str
    context: Mapping[str, object] = field(default_factory=dict)
    figures: Mapping[str, UIElement] = field(default_factory=dict)
    data: Mapping[str, Json] = field(default_factory=dict)
    scripts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()


def page_of(title: str, sections: Sequence[Section]) -> str:
    """The document, complete in itself.

    Raises:
        ValueError: Two sections use one name for different things.
    """
    documents: dict[str, str] = {}
    for section in sections:
        drawn = {f"figure-{name}": json_item(figure) for name, figure in section.figures.items()}
        told = {f"data-{name}": document for name, document in section.data.items()}
        for name, document in (drawn | told).items():
            if name in documents:
                raise ValueError(f"two sections of the page have a {name!r}")
            documents[name] = _for_script(document)
    styles = dict.fromkeys(["page.css", *(name for section in sections for name in section.styles)])
    scripts = dict.fromkeys(["page.js", *(name for section in sections for name in section.scripts)])
    template = environment().get_template("page.html")
    return template.render(
        title=title,
        version=version("gradscope"),
        sections=sections,
        style=Markup("".join(map(_text, styles))),
        library=[Markup(_as_script(script)) for script in library()] if any(s.figures for s in sections) else [],
        scripts=[Markup(_as_script(_text(name))) for name in scripts],
        documents={name: Markup(text) for name, text in documents.items()},
    )


def style() -> str:
    """How every page looks, the live one too."""
    return _text("page.css")


@cache
def library() -> tuple[str, ...]:
    """Bokeh's own scripts that the figures need, without those for widgets, tables and formulas."""
    return tuple(Resources(mode="inline", components=["bokeh"]).js_raw)


@cache
def environment() -> Environment:
    """Templates that escape what they are given and refuse what they are not."""
    return Environment(
        loader=PackageLoader("gradscope.reports", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _for_script(document: object) -> str:
    """JSON that cannot end the script element in which it stands."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _as_script(code: str) -> str:
    """Code that stands in a script element; it comes with the package, and yet may hold the element's end as text."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")

"""The live page's server: on this machine only, and only for who knows the address.

The address has a token of 192 random bits. Whatever is asked for without it is refused, but for Bokeh's own scripts: a
page of another site that a browser has open, or another user of the machine, could else read the recording.
"""

import asyncio
import re
import secrets
import webbrowser
from typing import Final

import click
from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.util import bind_sockets
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler

from gradscope.errors import UsageError
from gradscope.live import Watcher
from gradscope.moment import Moment
from gradscope.reports.live_page import LivePage

HOST: Final = "127.0.0.1"
_LOOKS_S: Final = 0.25
_SHOWS_MS: Final = 500


class Refused(RequestHandler):
    """Any address without the token."""

    def prepare(self) -> None:
        """Refuses it, whatever is done there."""
        raise HTTPError(403)


def serve(watcher: Watcher, *, port: int, opens: bool, until_end: bool) -> None:
    """Serves the page, on a free port if `port` is 0, until it is interrupted or, `until_end`, the training has ended.

    Raises:
        UsageError: The port is taken.
        TraceError: What is watched is no trace.
    """
    asyncio.run(_serve(watcher, port, opens=opens, until_end=until_end))


async def _serve(watcher: Watcher, port: int, *, opens: bool, until_end: bool) -> None:
    latest = [watcher.look()]
    token = secrets.token_urlsafe(24)
    try:
        sockets, port = bind_sockets(HOST, port)
    except OSError as error:
        raise UsageError(
            f"`--port {port}` cannot be used: {error.strerror}; leave it out to take a free one."
        ) from error
    application = Application(FunctionHandler(lambda document: _open(document, latest)))
    handled = BokehTornado(
        {f"/{token}": application},
        extra_websocket_origins=[f"{HOST}:{port}", f"localhost:{port}"],
        extra_patterns=[(rf"/(?!(?:{re.escape(token)}|static)(?:/|$)).*", Refused)],
        secret_key=secrets.token_bytes(32),
        sign_sessions=True,
        use_index=False,
        redirect_root=False,
    )
    http = HTTPServer(handled)
    http.add_sockets(sockets)
    server = BaseServer(IOLoop.current(), handled, http)
    server.start()
    address = f"http://{HOST}:{port}/{token}"
    click.echo(address)
    if opens:
        webbrowser.open(address)
    try:
        while not (until_end and latest[0].is_settled):
            await asyncio.sleep(_LOOKS_S)
            latest[0] = await asyncio.to_thread(watcher.look)
    finally:
        server.stop()


def _open(document: Document, latest: list[Moment]) -> None:
    page = LivePage(document)
    page.show(latest[0])
    document.add_periodic_callback(lambda: page.show(latest[0]), _SHOWS_MS)

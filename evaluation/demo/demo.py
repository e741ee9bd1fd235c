"""`erasure demo`: a page on this machine that draws before and after, from the same noise."""

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from erasure.errors import SettingError
from erasure.files.naming import places_of, short_names
from evaluation.demo.gate import Gate
from evaluation.demo.studio import Studio

HOST, VISITORS = "127.0.0.1", 16  # whose last pictures the server remembers
PATIENCE = 1  # seconds that open connections have when the server ends


def demo(runs: Sequence[Path], *, port: int = 7860, criterion: str = "judge") -> None:
    """Serve the page on 127.0.0.1 until it is interrupted.

    `criterion` is what an attack must show, in `find_criterion`'s words. SettingError if the port
    is taken.
    """
    if not runs:
        raise SettingError("demo needs at least one run's folder.")
    if not 1 <= port <= 65535:
        raise SettingError(f"port must be 1 to 65535; got {port}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingError(
                f"port {port} cannot be used ({error.strerror}); name another with --port."
            ) from error
    page = build(runs, criterion=criterion)
    Console().print(f"{serve(page, port=port)} until Ctrl-C")
    try:
        while page.is_running:
            time.sleep(0.1)
    except KeyboardInterrupt:
        page.stop_all()
        page.close()


def build(runs: Sequence[Path], *, criterion: str = "judge") -> Any:
    """The page, not yet served.

    EditError for a folder without a finished erasure, SettingError for one that is named twice.
    """
    try:
        from evaluation.demo.page import lay_out
    except ImportError as error:
        raise SettingError("the demo needs gradio: pip install 'erasure-toolkit[demo]'.") from error
    return lay_out(Studio(named(runs), criterion=criterion))


def serve(page: Any, *, port: int | None = None) -> str:
    """Launch a built page in a thread, for its own requests on 127.0.0.1 alone; its address."""
    from evaluation.demo.page import STYLE, theme

    _, address, _ = page.launch(
        server_name=HOST, server_port=port, share=False, enable_monitoring=False, footer_links=[],
        show_error=False, max_file_size=1, state_session_capacity=VISITORS, css=STYLE,
        theme=theme(), ssr_mode=False, pwa=False, mcp_server=False, quiet=True,
        prevent_thread_lock=True,
    )  # fmt: skip
    settings = page.server.config
    # around all of Gradio, whose own check of origins takes any port and any name of this machine
    settings.loaded_app = Gate(settings.loaded_app, page.server_port)
    settings.timeout_graceful_shutdown = PATIENCE
    return address


def named(runs: Sequence[Path]) -> dict[str, Path]:
    """Each run's folder by the name it has on the page; its place stays on this machine.

    SettingError for a folder that is named twice.
    """
    places = places_of(runs)
    return dict(zip(short_names(places), places, strict=True))

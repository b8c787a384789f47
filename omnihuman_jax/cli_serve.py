"""The verb `serve` of the command line: its arguments, the server's environment, its start and its end."""

import argparse
import importlib.util
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from omnihuman_jax.errors import InputError

if TYPE_CHECKING:
    from omnihuman_jax.web.studio import Studio

DESCRIPTION = "A web page: hand in a portrait and a voice, watch the video being made."
EPILOG = """examples:
  omnihuman serve                                  the built-in model, http://127.0.0.1:7860
  omnihuman serve --model models/wan-1.3b --max-seconds 20
  omnihuman serve --host 0.0.0.0                   for the whole network; there is no password
"""
PRECISIONS = ("auto", "float32", "bfloat16", "int8", "float8")  # models/building.py
SWEEP = 600.0  # seconds between two looks for old files
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `omnihuman serve`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "--model",
        default="mini",
        metavar="DIR_OR_NAME",
        help="a model directory, local or gs://, or the built-in model (default: mini)",
    )
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="whom to answer: 127.0.0.1 for this machine only, 0.0.0.0 for anybody who can reach it "
        "(default: 127.0.0.1)",
    )
    add("--port", type=int, default=7860, metavar="N", help="0 for any free one (default: 7860)")
    add(
        "--work",
        metavar="FOLDER",
        help="where uploads and videos lie; the only folder that can be read from outside (default: a "
        "temporary one, deleted at the end)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of weights and matmuls; auto is float32 on CPU, else bfloat16 (default: auto)",
    )
    limits = parser.add_argument_group("limits")
    add = limits.add_argument
    add("--max-seconds", type=float, default=60.0, metavar="S", help="of a video (default: 60)")
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="height x width of a video (default: four times what the model makes by itself)",
    )
    add(
        "--max-size", type=int, default=32, metavar="MIB", help="of one uploaded file (default: 32)"
    )
    add(
        "--max-picture",
        type=float,
        default=40.0,
        metavar="MILLIONS",
        help="pixels of an uploaded picture, up to 80 (default: 40)",
    )
    add(
        "--queue",
        type=int,
        default=8,
        metavar="N",
        help="videos that may wait for the one being made (default: 8)",
    )
    add(
        "--keep-hours",
        type=float,
        default=6.0,
        metavar="H",
        help="uploads and videos older than this are deleted (default: 6)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help='print {"url": ...} when the page can be opened (default: a line of text)',
    )


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted.

    Raises:
        InputError: a limit, an address or a model that cannot work; Gradio is not installed.
    """
    _check(args)
    port = _free(args.host, args.port)
    with ExitStack() as stack:
        if args.work is None:
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix="omnihuman-serve-"))
        else:
            work = args.work
        folder = Path(work).absolute() / "served"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise InputError(f"--work {work} cannot be written to ({why.strerror}).") from why
        _environment(folder, args.host)
        whole = _serve(args, _studio(args, folder), folder, port)
    if not whole:  # in the middle of a long step; Python would wait for its end
        print("omnihuman serve: interrupted.", file=sys.stderr, flush=True)
        os._exit(130)
    raise KeyboardInterrupt


def _check(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise InputError("The page needs Gradio: pip install 'omnihuman_jax[web]'.")
    if not 0 <= args.port < 65536:
        raise InputError(f"--port lies between 0 and 65535, got {args.port}.")
    for name in ("max_seconds", "max_pixels", "max_size", "max_picture", "keep_hours"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} is above 0, got {value}.")
    if args.queue < 0:
        raise InputError(f"--queue is 0 or more, got {args.queue}.")


def _environment(folder: Path, host: str) -> None:
    """What Gradio reads when it is imported: it tells nobody of us, and keeps its files in the folder."""
    near = ",".join(filter(None, [os.environ.get("NO_PROXY"), *LOOPBACK[:3], host]))
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_SSR_MODE": "False",
        "GRADIO_MCP_SERVER": "False",
        "NO_PROXY": near,  # it asks the server whether it is up, which no proxy knows
        "no_proxy": near,
    }
    # Settings of other Gradio servers of this user do not open anything here.
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_ROOT_PATH", "GRADIO_NUM_WORKERS"):
        os.environ.pop(name, None)


def _studio(args: argparse.Namespace, folder: Path) -> "Studio":
    from omnihuman_jax.inference.pipeline import load
    from omnihuman_jax.inference.request import AREA
    from omnihuman_jax.web.limits import Limits
    from omnihuman_jax.web.shelf import Shelf
    from omnihuman_jax.web.studio import Studio

    pipe = load(args.model, precision=args.precision)
    limits = Limits(
        seconds=args.max_seconds,
        pixels=args.max_pixels or 4 * int(pipe.model.manifest.sampling.get("area", AREA)),
        picture_pixels=round(args.max_picture * 1e6),
        upload=args.max_size,
        queue=args.queue,
        hours=args.keep_hours,
    )
    return Studio(args.model, pipe.generator, limits, Shelf(folder))


def _serve(args: argparse.Namespace, studio: "Studio", folder: Path, port: int) -> bool:
    """Serve until a signal; whether everything came to its end then."""
    from starlette.middleware import Middleware

    from omnihuman_jax.web import look
    from omnihuman_jax.web.guard import Guard
    from omnihuman_jax.web.page import page

    hosts = LOOPBACK if args.host in LOOPBACK else None
    blocks = page(studio)
    # Places in line are the studio's; Gradio's own line only bounds what can be asked of it.
    blocks.queue(max_size=64, api_open=False)
    ended = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: ended.set())
    _, url, _ = blocks.launch(
        server_name=f"[{args.host}]" if ":" in args.host else args.host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        show_error=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        max_file_size=f"{args.max_size}mb",
        theme=look.THEME,
        css=look.CSS,
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [Middleware(Guard, folder=folder, hosts=hosts)],
        },
    )
    print(json.dumps({"url": url}) if args.json else f"The page is at {url}", flush=True)
    while not ended.wait(SWEEP):
        studio.sweep()
    whole = studio.close()
    blocks.close(verbose=False)
    return whole


def _free(host: str, port: int) -> int:
    """The port to take.

    Raises:
        InputError: it is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except (OSError, OverflowError) as why:
            said = getattr(why, "strerror", None) or why
            raise InputError(
                f"Cannot listen at --host {host} --port {port}: {said}. Choose others; --port 0 takes "
                "any that is free."
            ) from why
        return int(tried.getsockname()[1])

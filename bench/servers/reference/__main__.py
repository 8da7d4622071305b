"""Serve one checkpoint: ``python -m bench.servers.reference --model-path DIR --port N``."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading

from aiohttp import web

from quantize.imports import import_transformers

CLEANUP_S = 0.2
"""Longest time for open answers to end once the server is asked to stop."""

log = logging.getLogger("bench.servers.reference")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.servers.reference",
        description="Serve a checkpoint in SGLang's native HTTP API.",
        allow_abbrev=False,
    )
    parser.add_argument("--model-path", required=True, help="folder of a Hugging Face checkpoint")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float32"),
        default="auto",
        help="auto: the checkpoint's, or float32 on a CPU without BF16",
    )
    parser.add_argument(
        "--kv-cache-dtype", choices=("auto", "fp8_e4m3"), default="auto", help="auto: what the model computes in"
    )
    parser.add_argument("--context-length", type=int, help="longest prompt plus answer, tokens; default: the model's")
    parser.add_argument("--yarn-factor", type=float, help="stretch the positions this many times, by YaRN")
    parser.add_argument("--yarn-original", type=int, help="positions that the model was trained with")
    parser.add_argument("--max-running-requests", type=int, default=16)
    parser.add_argument("--max-prefill-chunk", type=int, default=4096, help="prompt tokens per forward pass")
    parser.add_argument("--cache-tokens", type=int, default=16384, help="size of the prefix cache; 0 turns it off")
    parser.add_argument("--served-model-name", help="default: the model path")
    parser.add_argument("--exit-with-parent", action="store_true", help="exit when standard input is closed")
    args = parser.parse_args(argv)
    args.served_model_name = args.served_model_name or args.model_path
    return args


async def serve(args: argparse.Namespace) -> int:
    """Serve until a signal, or the end of standard input, stops it; return the exit code."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if args.exit_with_parent:
        threading.Thread(target=_await_eof, args=(loop, stopped), daemon=True).start()
    import_transformers()
    from bench.servers.reference.app import Server

    server = Server(args)
    # A handler is cancelled when its client disconnects.
    runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=CLEANUP_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, args.host, args.port).start()
        loading = asyncio.create_task(server.load())
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            log.info("ready on http://%s:%d", args.host, args.port)
        await stopping
    except Exception:
        log.exception("cannot serve %s", args.model_path)
        return 1
    finally:
        await runner.cleanup()
    return 0


def _await_eof(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    """Stop the server when standard input ends, which happens however the parent dies."""
    while sys.stdin.buffer.read(4096):
        pass
    loop.call_soon_threadsafe(stopped.set)


async def _serve_and_exit(args: argparse.Namespace) -> None:
    code = await serve(args)
    logging.shutdown()
    # A forward pass cannot be interrupted, and a normal interpreter exit during one may crash.
    os._exit(code)


def main() -> None:
    """Run the server; never returns."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ["HF_HUB_OFFLINE"] = "1"
    args = parse_args()
    asyncio.run(_serve_and_exit(args))


if __name__ == "__main__":
    main()

"""Start SGLang with the API key from the environment, in a toolchain's interpreter, without importing quantbench.

SGLang accepts its key only on the command line or from a file. Here it is set before the arguments are resolved, and
kept out of the log, to which SGLang writes all of them. The server ends when standard input closes, which happens when
the process that started it is gone, for any reason.
"""

import logging
import os
import signal
import sys
import threading
from typing import Any

KEY_VARIABLE = "QUANTBENCH_API_KEY"


def end_with_parent() -> None:
    """Wait until standard input closes, then kill the process group.

    Does not use ``sys.stdin``, because Python aborts at its exit while a thread holds the lock of that stream.
    """
    while os.read(0, 1024):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def hide(secret: str) -> None:
    """Replace ``secret`` in everything that this process logs from now on."""
    make = logging.getLogRecordFactory()

    def make_hidden(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        message = record.getMessage()
        if secret in message:
            record.msg, record.args = message.replace(secret, "…"), ()
        return record

    logging.setLogRecordFactory(make_hidden)


def main() -> None:
    """Serve as ``python -m sglang.launch_server`` does, with a key."""
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    key = os.environ.pop(KEY_VARIABLE)
    hide(key)
    load_plugins()
    arguments = prepare_server_args(sys.argv[1:])
    arguments.api_key = key
    threading.Thread(target=end_with_parent, name="end-with-parent", daemon=True).start()
    try:
        run_server(arguments)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()

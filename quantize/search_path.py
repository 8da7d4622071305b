"""The ``PATH`` of a child process, with the programs of its own virtual environment first."""

import os
from pathlib import Path


def search_path(program: str) -> dict[str, str]:
    """Return ``PATH`` for a child that runs ``program``; empty where it needs no other than this process's.

    The programs of a virtual environment, such as ``ninja``, lie next to its interpreter. Libraries look for them on
    ``PATH`` only, where activating the environment puts them and starting its interpreter does not.

    Args:
        program: what is started, e.g. the interpreter of a toolchain.
    """
    folder = Path(program).parent
    if not (folder.parent / "pyvenv.cfg").is_file():
        return {}
    others = os.environ.get("PATH", os.defpath)
    return {"PATH": os.pathsep.join(filter(None, (str(folder.absolute()), others)))}

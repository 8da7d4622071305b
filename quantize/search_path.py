"""The ``PATH`` of a child process, with the programs of its own virtual environment first."""

import os
from pathlib import Path


def search_path(program: str) -> dict[str, str]:
    """Return ``PATH`` for a child that runs ``program``; empty if this process's ``PATH`` is suitable.

    The programs of a virtual environment, such as ``ninja``, are next to its interpreter. Libraries look for them only
    on ``PATH``, to which activating the environment adds them, but starting its interpreter does not.

    Args:
        program: program of the child, e.g. the interpreter of a toolchain.
    """
    folder = Path(program).parent
    if not (folder.parent / "pyvenv.cfg").is_file():
        return {}
    others = os.environ.get("PATH", os.defpath)
    return {"PATH": os.pathsep.join(filter(None, (str(folder.absolute()), others)))}

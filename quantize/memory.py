"""The memory that a process may still take: what is free, within its limits and its container."""

import re
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def _left_in_container() -> int | None:
    """Return the bytes that the control group (v2) of this process may still take; None without a limit.

    Cached files count as free, because the kernel drops them first.
    """
    try:
        own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        group = CGROUP / (own[1] if own else "")
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = re.search(r"^file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    if not limit.isdigit():
        return None
    return max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _limits() -> list[int]:
    """Return the limits on this process's memory, in bytes; empty if the system has none."""
    try:
        import resource
    except ImportError:
        return []
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def available_memory() -> int:
    """Return the bytes that this process or a child may take: free memory, within its limits and its container."""
    container = _left_in_container()
    return min([psutil.virtual_memory().available, *_limits(), *([] if container is None else [container])])

"""Settings for torch's waiting threads and memory in the CPU processes that quantbench starts for itself."""

import os

SPIN = "5000"
"""Spin count, about 5 microseconds. See docs/decisions/0017-waiting-threads.md for the measurements."""
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def waiting() -> dict[str, str]:
    """Return environment variables that make waiting threads yield their core soon; empty if the user set any.

    By default GNU's OpenMP lets a waiting thread spin for milliseconds. If another process runs on the same cores, the
    spinning thread keeps the thread it waits for from running, and a small step takes ten times as long or more.
    """
    return {} if any(name in os.environ for name in CHOICES) else {"GOMP_SPINCOUNT": SPIN}


def memory() -> dict[str, str]:
    """Return environment variables that make the GNU C library request huge pages; empty if the user set any.

    Linux provides them where ``/sys/kernel/mm/transparent_hugepage/enabled`` is ``madvise``, the usual setting.
    """
    return {} if "GLIBC_TUNABLES" in os.environ else {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

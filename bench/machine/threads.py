"""How torch's threads wait and where its memory lies in the processes that quantbench starts for itself on a CPU."""

import os

SPIN = "5000"
"""Turns, about 5 microseconds. docs/decisions/0017-waiting-threads.md holds the figures."""
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def waiting() -> dict[str, str]:
    """Return the environment variables that let threads give their core away soon; nothing where somebody chose.

    GNU's OpenMP lets a thread that waits spin for milliseconds. Where anything else runs on the same cores, that thread
    keeps the one it waits for from working, and a small step takes ten times as long or more.
    """
    return {} if any(name in os.environ for name in CHOICES) else {"GOMP_SPINCOUNT": SPIN}


def memory() -> dict[str, str]:
    """Return the environment variables that let the GNU C library ask for huge pages; nothing where somebody chose.

    Linux gives them where ``/sys/kernel/mm/transparent_hugepage/enabled`` says ``madvise``, its usual setting.
    """
    return {} if "GLIBC_TUNABLES" in os.environ else {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

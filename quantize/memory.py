"""Memory that is there for the taking."""

import resource

import psutil


def available_memory() -> int:
    """Return the bytes that this process or a child may take: what is free, and what its own limits allow."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min([psutil.virtual_memory().available, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])

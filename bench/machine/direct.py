"""Direct HTTP: requests go to the server's own address, without proxies or redirects.

``urllib``, ``requests`` and ``httpx`` take proxies from the environment and send requests to 127.0.0.1 through them,
including API keys, unless ``no_proxy`` names it. The measuring client connects to the server directly, so all other
requests to that server do too. A redirect would send the key to an address that no config names.
"""

import os
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import cast

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NAMES = ("no_proxy", "NO_PROXY")
"""Variables that list the hosts to reach without a proxy; programs read either one."""


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for HTTP only, without the handlers for proxies and redirects."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def open_direct(request: urllib.request.Request, timeout_s: float) -> HTTPResponse:
    """Return the response to a request, which the caller must close.

    Raises:
        urllib.error.HTTPError: the server answered with an error or a redirect.
        OSError: the server did not answer.
        http.client.HTTPException: the answer is not HTTP.
    """
    return cast(HTTPResponse, _opener().open(request, timeout=timeout_s))


def loopback_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make a process send requests to this machine without a proxy.

    Args:
        environment: the process's environment; hosts that it already reaches directly are kept.
    """
    listed = next((environment[name] for name in NAMES if environment.get(name)), "")
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    return dict.fromkeys(NAMES, ",".join(hosts))


def bypass_proxies() -> None:
    """Make this process send requests to this machine without a proxy, in any library."""
    os.environ.update(loopback_variables(os.environ))

"""HTTP without detours: a server is asked at its own address, through no proxy and after no redirect.

``urllib``, ``requests`` and ``httpx`` take proxies from the environment and send requests to 127.0.0.1 through them,
API keys included, unless ``no_proxy`` names it. The client that measures connects to the server itself, so whatever
else asks the same server does so too. A redirect would carry the key to an address that no config names.
"""

import os
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import cast

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NAMES = ("no_proxy", "NO_PROXY")
"""Variables that list the hosts to reach without a proxy; programs read one or the other."""


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for HTTP alone, without the handlers that use proxies and follow redirects."""
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
    """Return the response to a request; close it.

    Raises:
        urllib.error.HTTPError: the server answered with an error, or with a redirect.
        OSError: no answer.
        http.client.HTTPException: an answer that is not HTTP.
    """
    return cast(HTTPResponse, _opener().open(request, timeout=timeout_s))


def loopback_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep a process's own requests to this machine away from proxies.

    Args:
        environment: of the process; hosts that it reaches directly already are kept.
    """
    given = next((environment[name] for name in NAMES if environment.get(name)), "")
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    return dict.fromkeys(NAMES, ",".join(hosts))


def bypass_proxies() -> None:
    """Keep this process's requests to this machine away from proxies, whichever library sends them."""
    os.environ.update(loopback_variables(os.environ))

"""The event loop of the measuring client: uvloop's where it is installed, otherwise asyncio's own.

uvloop reads a socket in a third of asyncio's time, and is available for CPython on POSIX systems only.
"""

import asyncio
from collections.abc import Callable
from typing import Literal

EventLoop = Literal["uvloop", "asyncio"]

NAME: EventLoop
new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    import uvloop
except ImportError:
    NAME, new_event_loop = "asyncio", asyncio.new_event_loop
else:
    NAME, new_event_loop = "uvloop", uvloop.new_event_loop

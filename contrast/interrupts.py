"""Ctrl-C as a wish that the loop looks at between two steps, so that what was learnt is kept.

with postponed_interrupt() as interrupted:
    while not interrupted(): ...
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def postponed_interrupt() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed; a second one is a KeyboardInterrupt, at once.

    Only the main thread can do this, and only where Ctrl-C means a KeyboardInterrupt; elsewhere nothing changes.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield lambda: False
        return
    was_asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal was_asked
        was_asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: was_asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

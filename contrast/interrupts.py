"""Ctrl-C as a wish that the loop looks at between two steps, so that what was learnt is kept.

with postponed_interrupt("stopping after this step") as interrupted:
    while not interrupted(): ...
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def postponed_interrupt(said: str) -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed; a second one is a KeyboardInterrupt, at once.

    The first one is a KeyboardInterrupt when the context ends. Only the main thread can do this, and only where Ctrl-C
    means a KeyboardInterrupt; elsewhere nothing changes.

    Args:
        said: what the user is told, at once.
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
        os.write(2, f"\n{said}\n".encode())  # print may be in the middle of a line of its own

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: was_asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if was_asked:
        raise KeyboardInterrupt

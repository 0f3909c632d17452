"""End a command at SIGTERM as at Ctrl-C: all that it has started ends too."""

import signal
import threading
from types import FrameType


def interrupt_at_sigterm() -> None:
    """Have SIGTERM do what SIGINT does, if this is the main thread, which alone can set it.

    Called again where a library, or the end of a handler of asyncio, has set another handler.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)

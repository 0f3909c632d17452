"""End a command at SIGTERM as at Ctrl-C: all that it has started ends too."""

import signal
import threading


def interrupt_at_sigterm() -> None:
    """Have SIGTERM do what SIGINT does, if this is the main thread, which alone can set it.

    Called again where a library, or the end of a handler of asyncio, has set another handler.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))

"""Pause the garbage collector while libraries are imported and roles are built. Importing this loads nothing heavy."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Do not collect garbage inside, and exempt what exists at the end from later collections.

    torch, transformers and vLLM create a million objects that live as long as the process. Python would go through all
    of them several times while they load, which takes a third of that time, and again in later collections.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()

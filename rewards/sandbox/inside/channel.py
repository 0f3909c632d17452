"""Messages between the two boxes of one check: a length of 4 bytes, big-endian, and that many bytes of JSON."""

import json
import os
import struct
from typing import Any

from rewards.sandbox.inside.kinds import Malformed, TooLarge

FRAME_LIMIT = 4 * 2**20
"""Bytes of a message, beyond those of the message it answers."""
REQUEST_LIMIT = 64 * 2**20
"""Bytes of a message that answers none."""


class Closed(Exception):
    """The other side is gone."""


class Channel:
    """One end; `limit` bounds the next message in both directions on the side of the program."""

    def __init__(self, reading: int, writing: int, sends: int, receives: int) -> None:
        self.reading = reading
        self.writing = writing
        self.sends = sends
        """Bytes a message of ours may have; one of theirs has at most `receives`."""
        self.receives = receives

    def send(self, message: list[Any]) -> int:
        """Returns its bytes. Raises TooLarge, Closed."""
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > self.sends:
            raise TooLarge(f"data takes {len(data)} bytes, above {self.sends}")
        rest = memoryview(struct.pack(">I", len(data)) + data)
        try:
            while rest:
                rest = rest[os.write(self.writing, rest) :]
        except OSError:
            raise Closed from None
        return len(data)

    def receive(self) -> tuple[list[Any], int]:
        """The next message and its bytes. Raises Closed, Malformed."""
        length = struct.unpack(">I", self._exactly(4))[0]
        if length > self.receives:
            raise Malformed(f"a message of {length} bytes")
        try:
            message = json.loads(self._exactly(length))
        except (ValueError, RecursionError):
            raise Malformed("no JSON") from None
        if type(message) is not list or not message:
            raise Malformed("no message")
        return message, length

    def _exactly(self, count: int) -> bytes:
        parts, missing = [], count
        while missing:
            try:
                part = os.read(self.reading, min(missing, 2**20))
            except OSError:
                part = b""
            if not part:
                raise Closed
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def read_all(descriptor: int) -> Any:
    """The JSON value that the worker writes into a pipe and closes."""
    with open(descriptor, "rb") as stream:
        return json.load(stream)

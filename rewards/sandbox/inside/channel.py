"""Messages between the program's box and the tests' box of one check.

A message is its length (4 bytes, big-endian) followed by that many bytes of JSON.
"""

import json
import os
import struct
from typing import Any

from rewards.sandbox.inside.kinds import Malformed, TooLarge

FRAME_LIMIT = 4 * 2**20
"""Maximum bytes of a reply, in addition to the bytes of the request."""
REQUEST_LIMIT = 64 * 2**20
"""Maximum bytes of a request, which replies to nothing."""


class Closed(Exception):
    """The other box has closed its end of the channel."""


class Channel:
    """One end of the channel, with size limits for the next messages. Its owner may change the limits."""

    def __init__(self, reading: int, writing: int, send_limit: int, receive_limit: int) -> None:
        self.reading = reading
        self.writing = writing
        self.send_limit = send_limit
        """Maximum bytes of the next message sent."""
        self.receive_limit = receive_limit
        """Maximum bytes of the next message received."""

    def send(self, message: list[Any]) -> int:
        """Send a message and return its size in bytes.

        Raises:
            TooLarge: the message exceeds `send_limit`.
            Closed: the other box has closed its end.
        """
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > self.send_limit:
            raise TooLarge(f"the data takes {len(data)} bytes, at most {self.send_limit} are allowed")
        rest = memoryview(struct.pack(">I", len(data)) + data)
        try:
            while rest:
                rest = rest[os.write(self.writing, rest) :]
        except OSError:
            raise Closed from None
        return len(data)

    def receive(self) -> tuple[list[Any], int]:
        """Return the next message and its size in bytes.

        Raises:
            Closed: the other box has closed its end.
            Malformed: the message is too long, or no non-empty JSON list.
        """
        length = struct.unpack(">I", self._exactly(4))[0]
        if length > self.receive_limit:
            raise Malformed(f"a message of {length} bytes")
        try:
            message = json.loads(self._exactly(length))
        except (ValueError, RecursionError):
            raise Malformed("not JSON") from None
        if type(message) is not list or not message:
            raise Malformed("not a non-empty list")
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
    """Read the JSON value that the worker writes into a pipe before it closes its end."""
    with open(descriptor, "rb") as stream:
        return json.load(stream)

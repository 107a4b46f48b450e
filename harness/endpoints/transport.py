"""The HTTP client of judges: replies are read up to a limit, and redirects are not followed."""

import zlib
from collections.abc import AsyncIterator

import httpx2
from openai import DefaultAsyncHttpxClient

MEBIBYTE = 1 << 20
LONGEST_REPLY = 16 * MEBIBYTE  # bytes of a body, unpacked; judgments have some thousand
PACKED = ("gzip", "x-gzip", "deflate")
GZIP_OR_ZLIB = 47  # zlib's window bits for detecting the format


class ReplyTooLong(Exception):
    """A reply exceeds the limit, or cannot be unpacked up to it."""


def bounded_client(limit: int = LONGEST_REPLY) -> httpx2.AsyncClient:
    """Return a client that raises ReplyTooLong for a body, also of an error, of more than `limit` bytes.

    Redirects are returned like other replies: questions and the key go to the named host only.
    """

    async def bound(response: httpx2.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding not in ("", "identity", *PACKED):
            raise ReplyTooLong(f"the reply is packed ({encoding!r:.40}), which was not asked for")
        packed = encoding in PACKED
        if packed:
            del response.headers["content-encoding"]
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # of an asynchronous client
        response.stream = _Bounded(response.stream, limit, packed)

    return DefaultAsyncHttpxClient(
        event_hooks={"response": [bound]}, follow_redirects=False, headers={"Accept-Encoding": "identity"}
    )


class _Bounded(httpx2.AsyncByteStream):
    """A body, unpacked if need be, up to a limit."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int, packed: bool):
        self._stream, self._limit, self._packed = stream, limit, packed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._limit
        unpacker = zlib.decompressobj(GZIP_OR_ZLIB) if self._packed else None
        async for chunk in self._stream:
            if unpacker:
                try:
                    chunk = unpacker.decompress(chunk, left + 1)
                except zlib.error:
                    raise ReplyTooLong("the reply cannot be unpacked") from None
            left -= len(chunk)
            if left < 0:
                size = f"{self._limit // MEBIBYTE} MiB" if self._limit >= MEBIBYTE else f"{self._limit:,} bytes"
                raise ReplyTooLong(f"the reply is longer than {size}")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()

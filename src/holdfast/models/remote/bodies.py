"""What a provider's server may send back: so many bytes of a body, as they are once they are unpacked.

A client of HTTPX (or of its successor, which has the same parts) is given transports that count. Without a bound, a
server or whoever stands in its place fills the memory: by a body that does not end, or by one that is packed.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import AsyncIterator
from typing import Any

MOST_BYTES = 8 << 20
ACCEPTED = "gzip, deflate"
_PLAIN, _PACKED = ("", "identity"), ("gzip", "x-gzip", "deflate")
_ANY_WRAPPING = 32 + zlib.MAX_WBITS  # gzip or zlib, as the data says


class BadBody(Exception):
    """A body that is too long, or packed in a way that was not asked for."""


def bound_bodies(client: Any) -> None:
    """Hold what ``client`` receives to ``MOST_BYTES`` a body; a client of another library stays as it is."""
    if not hasattr(client, "_transport") or not hasattr(client, "_mounts") or isinstance(client._transport, _Counting):
        return
    kind = next(one for one in type(client).__mro__ if one.__name__ == "AsyncClient")
    library = sys.modules[kind.__module__.partition(".")[0]]
    client.headers["accept-encoding"] = ACCEPTED
    client._transport = _Counting(client._transport, library.AsyncByteStream)
    client._mounts = {
        pattern: None if one is None else _Counting(one, library.AsyncByteStream)
        for pattern, one in client._mounts.items()
    }


class _Counting:
    """A transport whose responses are bounded; in all else the one that it stands for."""

    def __init__(self, inner: Any, stream: type) -> None:
        self._inner = inner
        # The client asks for a stream of its own library's kind.
        self._stream = type("BoundedStream", (_Stream, stream), {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> _Counting:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)

    async def handle_async_request(self, request: Any) -> Any:
        response = await self._inner.handle_async_request(request)
        packing = response.headers.get("content-encoding", "").strip().lower()
        if packing not in (*_PLAIN, *_PACKED):
            await response.aclose()
            raise BadBody(f"it is packed as {packing[:40]!r}, which was not asked for")
        said = response.headers.get("content-length", "")
        if said.isdecimal() and (len(said) > len(str(MOST_BYTES)) or int(said) > MOST_BYTES):
            await response.aclose()
            raise _too_long()
        response.headers.pop("content-encoding", None)
        if packing in _PACKED:
            response.headers.pop("content-length", None)
        response.stream = self._stream(response.stream, packing in _PACKED)
        return response


class _Stream:
    """The bytes of a body, unpacked, up to the bound."""

    def __init__(self, inner: Any, packed: bool) -> None:
        self._inner, self._packed = inner, packed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MOST_BYTES
        opener = zlib.decompressobj(_ANY_WRAPPING) if self._packed else None
        async for piece in self._inner:
            plain = piece if opener is None else _unpack(opener, piece, left)
            left -= len(plain)
            if left < 0:
                raise _too_long()
            yield plain
        # Its end holds the checksum.
        if opener is not None and left < MOST_BYTES and not opener.eof:
            raise BadBody("it ends before what is packed in it does")

    async def aclose(self) -> None:
        await self._inner.aclose()


def _unpack(opener: Any, piece: bytes, left: int) -> bytes:
    """No more than one byte beyond what is left. Errors: BadBody."""
    try:
        return bytes(opener.decompress(piece, left + 1))
    except zlib.error as error:
        raise BadBody(f"it cannot be unpacked ({error})") from error


def _too_long() -> BadBody:
    return BadBody(f"it is longer than {MOST_BYTES >> 20} MiB")

"""A TCP proxy before a server that loses what a network loses.

It can be away (connections end, new ones are refused), silent (connections stay, and nothing
passes), and cut a connection at the worst moment: after a request was carried out and before
its reply came back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_CHUNK_BYTES = 65_536
#: what is looked for may begin in one chunk and end in the next
_TAIL_BYTES = 256
_CALL_S = 10.0


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Loss:
    """A reply to be lost: the first one that fits, to a request that does."""

    def __init__(self, request: bytes, reply: bytes) -> None:
        self.request = request
        self.reply = reply
        self.happened = threading.Event()


class Proxy:
    """Listens on 127.0.0.1 and passes everything on to a server, until told otherwise."""

    def __init__(self, server: str | tuple[str, int]) -> None:
        """`server` is the path of a unix socket, or a host and a port."""
        self._behind = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._losses: list[_Loss] = []
        self._flowing: asyncio.Event = self._call(self._new_event())
        self._away = False
        self.port: int = self._call(self._listen())

    def url(self, db: int) -> str:
        """Where the Redis seems to be."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    def go_away(self) -> None:
        """End all connections, and any new one at once: the port stays ours."""
        self._away = True
        self.cut()

    def come_back(self) -> None:
        """Serve new connections again."""
        self._away = False

    def cut(self) -> None:
        """End all connections; new ones are welcome."""
        self._call(self._cut())

    def fall_silent(self) -> None:
        """Let nothing pass, in either direction, while connections stay."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def speak_again(self) -> None:
        """Let pass what was held back, and all that follows."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def lose_reply(self, request: bytes, reply: bytes = b"") -> threading.Event:
        """Cut the connection once a reply that contains `reply` comes to a request that contains
        `request`. The reply is lost, its request was carried out. Returns what is set then.
        """
        loss = _Loss(request, reply)
        self._loop.call_soon_threadsafe(self._losses.append, loss)
        return loss.happened

    def close(self) -> None:
        """End everything."""
        self._away = True
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # --- in the loop's thread -----------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)

    async def _new_event(self) -> asyncio.Event:
        flowing = asyncio.Event()
        flowing.set()
        return flowing

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        pumps = tuple(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _reach(self) -> Stream:
        if isinstance(self._behind, str):
            return await asyncio.open_unix_connection(self._behind)
        return await asyncio.open_connection(*self._behind)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await self._reach()
        except OSError:
            writer.transport.abort()
            return
        if self._away:  # looked at last: whatever is begun from here on, `cut` ends
            writer.transport.abort()
            server[1].transport.abort()
            return
        await _Connection((reader, writer), server, self._losses, self._flowing).run(self._pumps)


class _Connection:
    """One connection: two pumps, which end together."""

    def __init__(
        self, client: Stream, server: Stream, losses: list[_Loss], flowing: asyncio.Event
    ) -> None:
        self._client, self._server = client, server
        self._losses, self._flowing = losses, flowing
        #: losses whose request has passed here and whose reply has not
        self._awaited: list[_Loss] = []

    async def run(self, pumps: set[asyncio.Task[None]]) -> None:
        own = [
            asyncio.ensure_future(self._pump(self._client[0], self._server[1], self._note_request)),
            asyncio.ensure_future(self._pump(self._server[0], self._client[1], self._may_pass)),
        ]
        pumps.update(own)
        try:
            await asyncio.wait(own, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in own:
                pump.cancel()
            pumps.difference_update(own)
            for _, writer in (self._client, self._server):
                writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        may_pass: Callable[[bytes], bool],
    ) -> None:
        tail = b""
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                await self._flowing.wait()
                seen = tail + chunk
                if not may_pass(seen):
                    return
                writer.write(chunk)
                await writer.drain()
                tail = seen[-_TAIL_BYTES:]
        except ConnectionError:
            return

    def _note_request(self, seen: bytes) -> bool:
        for loss in self._losses:
            if loss.request in seen and loss not in self._awaited:
                self._awaited.append(loss)
        return True

    def _may_pass(self, seen: bytes) -> bool:
        for loss in self._awaited:
            if loss.reply in seen and loss in self._losses:
                self._losses.remove(loss)
                loss.happened.set()
                return False
        return True

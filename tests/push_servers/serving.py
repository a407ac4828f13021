"""An asyncio server in a thread of its own, on a free port of 127.0.0.1, for as long as it is entered."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Any, Self


class Serving:
    """Subclasses say by `protocol` what answers a connection; everything of theirs runs in the loop's thread."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None = None) -> None:
        self._protocol = protocol
        self._tls = tls
        self._wanted_port = 0
        self._transports: set[asyncio.BaseTransport] = set()
        self._alone = asyncio.Event()
        self.port = 0

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=type(self).__name__)
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.away()
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def listen(self) -> None:
        """On a free port, or on the one it had: a server that was away is back."""
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(10)

    def away(self) -> None:
        """Nobody listens, and who is connected is cut off."""
        asyncio.run_coroutine_threadsafe(self._away(), self.loop).result(10)

    def connected(self, transport: asyncio.BaseTransport) -> None:
        self._transports.add(transport)
        self._alone.clear()

    def disconnected(self, transport: asyncio.BaseTransport) -> None:
        self._transports.discard(transport)
        if not self._transports:
            self._alone.set()

    async def _listen(self) -> None:
        self._server = await self.loop.create_server(
            self._protocol, "127.0.0.1", self._wanted_port, ssl=self._tls, backlog=512
        )
        self.port = self._wanted_port = self._server.sockets[0].getsockname()[1]

    async def _away(self) -> None:
        self._server.close()
        self._cut_all()
        if self._transports:
            await self._alone.wait()

    def _cut_all(self) -> None:
        for transport in self._transports:
            transport.abort()  # type: ignore[attr-defined]  # every transport of a stream has it

    async def _cancel_all(self) -> None:
        tasks: list[asyncio.Task[Any]] = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""
Daphne with what a chat needs of it: `python -m chatproject.server --port 8000`.

Stock Daphne waits neither for a client that does not read nor for an application that does not, refuses a WebSocket
with 403 alone, and ends without a word: no close frame, no `disconnect`. Here `send` waits until the client has read,
reading waits until the application has, a handshake may be answered with any status (ASGI's `websocket.http.response`),
and before the end each client is told when to come back, and closed with 1012.
"""

import asyncio
import random
import sys

if sys.platform != "win32":
    import uvloop

    # Daphne makes its event loop when it is imported
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

from daphne.server import Server  # isort: skip  (installs the reactor)
from chatproject.asgi import application  # isort: skip  (sets Django up)

import argparse
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket import protocol as autobahn_protocol
from autobahn.websocket.types import ConnectionDeny
from daphne.endpoints import build_endpoint_description_strings
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from apps.conversations.protocol import MAX_FRAME_BYTES, Reconnect, encode
from apps.presence import node
from chatproject import frames, lifecycle
from chatproject.processes import BACKLOG

logger = logging.getLogger(__name__)

MAX_UNREAD = 64  # frames that the application has not got to
LOOK_AGAIN_S = 0.02
MOST_GATHERED = 65_536  # bytes
HANDSHAKE_S = 20  # a crowd that comes back at once is let in one after the other (admission.py)
DRAIN_BATCH = 200
DRAIN_GRACE_S = 5
RECONNECT_SPREAD_MS = 3_000

# It lays out all options of each connection for a line that is not logged: a tenth of what a connection costs. (Besides
# that, only autobahn's clients and its timings, which are off, would say less.)
autobahn_protocol.pformat = lambda _: ""


@implementer(IPushProducer)
class Flow:
    """Told by the transport when the client stops reading, when it reads again, and when it is gone."""

    def __init__(self) -> None:
        self.may_write = asyncio.Event()
        self.may_write.set()

    def pauseProducing(self) -> None:
        self.may_write.clear()

    def resumeProducing(self) -> None:
        self.may_write.set()

    def stopProducing(self) -> None:
        self.may_write.set()


class ChatSocket(WebSocketProtocol):
    failByDrop = False  # say why (1009, 1007), instead of only hanging up

    def __init__(self) -> None:
        super().__init__()
        self.flow = Flow()
        self.refusal: list[tuple[str, str]] = []
        self.holds_back = False
        self.on_text: Callable[[str], None] | None = None
        self.gathered: list[bytes] = []  # what goes out in the loop's next pass
        self.gathered_bytes = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.producer.requests.clear()  # the HTTP channel that hands over: it and its request hold each other

    def onOpen(self) -> None:
        self.transport.unregisterProducer()  # the HTTP channel's, from before the upgrade
        self.transport.registerProducer(self.flow, True)
        super().onOpen()

    def read_now(self, on_text: Callable[[str], None]) -> None:
        """From now on, hand over text as it comes, where no earlier event waits for the application to receive it."""
        if self.may_send:
            self.on_text = on_text

    def dataReceived(self, data: bytes) -> None:
        at = 0
        if self.on_text is not None:
            self.last_ping = time.time()  # Daphne pings who is quiet
            while self.may_be_read_now and (found := frames.whole_text(data, at)) is not None:
                text, at = found
                self.on_text(text)
        if at < len(data):
            super().dataReceived(data[at:])

    @property
    def may_be_read_now(self) -> bool:
        """
        Whether what comes next is the beginning of a frame, and next for the application.

        The consumer takes an event from the queue and handles it in one step: what is not in it is done.
        """
        return (
            self.may_send
            and not self.data
            and self.current_frame is None
            and not self.inside_message
            and self.application_queue.empty()
        )

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        super().onMessage(payload, isBinary)
        if self.application_queue.qsize() > MAX_UNREAD and not self.holds_back:
            self.holds_back = True
            self.transport.pauseProducing()
            reactor.callLater(LOOK_AGAIN_S, self._read_on)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # What holds this, and is held by it, would wait for the garbage collector.
        self.on_text = self.is_closed = None
        self.__dict__.pop("handshake_deferred", None)  # of who went before it was answered
        super().onClose(wasClean, code, reason)

    def _read_on(self) -> None:
        """Once the application has read what came; what one read from the network brought is all in its queue."""
        if self.application_queue.qsize() > MAX_UNREAD:
            reactor.callLater(LOOK_AGAIN_S, self._read_on)
        else:
            self.holds_back = False
            self.transport.resumeProducing()

    def handle_reply(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.http.response.start":
            self.serverRefuse(message["status"], message["headers"])
        elif message["type"] != "websocket.http.response.body":  # none of ours has one
            super().handle_reply(message)

    def serverRefuse(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """`serverReject` with a status and headers of one's own."""
        self.refusal = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        self.handshake_deferred.errback(ConnectionDeny(status, HTTPStatus(status).phrase))
        del self.handshake_deferred
        self.server.protocol_disconnected(self)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        super().failHandshake(reason, code, [*self.refusal, ("Content-Length", "0"), ("Connection", "close")])

    def serverSend(self, content: str | bytes, binary: bool = False) -> None:
        """
        One whole frame, written at once where nothing else waits to go out.

        autobahn builds it piece by piece, and Twisted asks the reactor first whether the socket may be written to: two
        system calls more than the one that a frame needs. And autobahn holds what goes out against the limit for what
        comes in.
        """
        if self.may_send:
            payload = content.encode() if isinstance(content, str) else content
            self._write(frames.header(len(payload), binary=binary), payload)

    def write_now(self, *texts: bytes) -> bool:
        """
        Take text frames, unless the client is behind with reading; returns whether they were taken.

        They go out in the loop's next pass, in one piece with what else is said to this client until then: it is the
        system call that costs, and not the bytes.
        """
        if not self.may_send or not self.flow.may_write.is_set():
            return False
        if not self.gathered:
            asyncio.get_running_loop().call_soon(self.write_gathered)
        for text in texts:
            self.gathered += (frames.header(len(text)), text)
            self.gathered_bytes += len(text)
        if self.gathered_bytes >= MOST_GATHERED:
            self.write_gathered()
        return True

    def write_gathered(self) -> None:
        if self.gathered:
            self._write()

    def sendData(self, *args: Any, **kwargs: Any) -> None:
        """What autobahn itself has to say, as closing and pings, goes out after what was said before."""
        self.write_gathered()
        super().sendData(*args, **kwargs)

    def _write(self, *pieces: bytes) -> None:
        gathered, self.gathered, self.gathered_bytes = self.gathered, [], 0
        data, transport = b"".join((*gathered, *pieces)), self.transport
        if transport.connected and not transport.dataBuffer and not transport._tempDataBuffer:
            with suppress(OSError):  # it is full, or gone: the transport sees which
                data = data[transport.socket.send(data) :]
        if data:
            transport.write(data)

    def serverClose(self, code: int | None = None) -> None:
        if code in (1012, 1013):  # autobahn's own `sendClose` takes none but 1000 and 3000-4999
            self.sendCloseFrame(code=code, isReply=False)
        else:
            super().serverClose(code)

    @property
    def may_send(self) -> bool:
        return self.state == WebSocketServerProtocol.STATE_OPEN


class ChatServer(Server):
    def run(self) -> None:
        WebSocketFactory.protocol = ChatSocket
        reactor.callWhenRunning(self._begin)
        super().run()

    def _begin(self) -> None:
        self._starting = asyncio.ensure_future(lifecycle.start())
        self._starting.add_done_callback(self._end_if_it_failed)

    def _end_if_it_failed(self, starting: "asyncio.Future[None]") -> None:
        if not starting.cancelled() and starting.exception() is not None:
            logger.critical("the node cannot start", exc_info=starting.exception())
            self.stop()

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if scope["type"] == "websocket":
            scope["extensions"] = {
                "websocket.http.response": {},
                "chat.write_now": protocol.write_now,
                "chat.read_now": protocol.read_now,
            }
        return super().create_application(protocol, scope)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        await super().handle_reply(protocol, message)
        if message["type"] == "websocket.send":
            await protocol.flow.may_write.wait()

    def listen_success(self, port: Any) -> None:
        self._port = port
        super().listen_success(port)

    def kill_all_applications(self) -> "Deferred[Any]":
        """Called before the reactor stops."""
        return Deferred.fromFuture(asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        this = node.current()
        this.draining = True
        self._port.stopListening()
        for socket in this.hub.sockets():
            socket.push(encode(Reconnect(after_ms=random.randint(0, RECONNECT_SPREAD_MS))))
        await asyncio.sleep(0)  # the sockets' writers send it before the close frame
        await self._close_all()
        await lifecycle.stop()
        leftovers = [
            details["application_instance"]
            for details in self.connections.values()
            if "application_instance" in details
        ]
        for instance in leftovers:
            instance.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)

    async def _close_all(self) -> None:
        sockets = [
            connection for connection in self.connections if isinstance(connection, ChatSocket) and connection.may_send
        ]
        random.shuffle(sockets)
        for start in range(0, len(sockets), DRAIN_BATCH):
            for socket in sockets[start : start + DRAIN_BATCH]:
                socket.sendCloseFrame(code=1012, reasonUtf8=b"restart", isReply=False)
            await asyncio.sleep(random.uniform(0.02, 0.08))
        hub = node.current().hub
        for _ in range(DRAIN_GRACE_S * 20):
            if not len(hub):
                return
            await asyncio.sleep(0.05)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m chatproject.server", description="One chat node.")
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int)
    arguments.add_argument("--fd", type=int, help="an inherited listening socket, instead of host and port")
    options = arguments.parse_args()
    if (options.port is None) == (options.fd is None):
        arguments.error("give either --port or --fd")
    endpoints = (
        build_endpoint_description_strings(file_descriptor=options.fd)
        if options.port is None
        else [f"{tcp}:backlog={BACKLOG}" for tcp in build_endpoint_description_strings(options.host, options.port)]
    )
    server(endpoints).run()


def server(endpoints: list[str]) -> ChatServer:
    return ChatServer(
        application,
        endpoints=endpoints,
        websocket_timeout=-1,
        websocket_connect_timeout=HANDSHAKE_S,
        websocket_handshake_timeout=HANDSHAKE_S,
        websocket_max_message_size=MAX_FRAME_BYTES,
        websocket_max_frame_size=MAX_FRAME_BYTES,
        server_name="chat",
    )


if __name__ == "__main__":
    main()

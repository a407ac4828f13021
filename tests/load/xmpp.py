"""A client that speaks XMPP over WebSocket (RFC 7395), as far as it is needed to talk, in pairs and in rooms."""

import asyncio
import base64
import re
import secrets
import time

from tests.load.tally import Tally
from tests.load.websocket import Socket, open_socket

DOMAIN = "localhost"
ROOMS = f"conference.{DOMAIN}"
_OPEN = f'<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="{DOMAIN}" version="1.0"/>'
_ID = re.compile(rb" id='([^']*)'")


class XmppClient:
    acks = False  # what a server says of a message in XMPP is that it was read from the socket

    def __init__(self, username: str, password: str, port: int, tally: Tally) -> None:
        self.username = username
        self.rooms: list[str] = []
        self.partners: dict[str, str] = {}  # by conversation
        self._password, self._port, self._tally = password, port, tally
        self._socket: Socket | None = None
        self._waiting: tuple[bytes, asyncio.Future[None]] | None = None

    def twin(self, tally: Tally) -> "XmppClient":
        """The same person on another device."""
        twin = XmppClient(self.username, self._password, self._port, tally)
        twin.partners = self.partners
        return twin

    async def connect(self) -> None:
        headers = {"Sec-WebSocket-Protocol": "xmpp"}
        self._socket = await open_socket("127.0.0.1", self._port, "/ws", headers, self._heard)
        secret = base64.b64encode(f"\0{self.username}\0{self._password}".encode()).decode()
        await self._ask(_OPEN, b"features")
        await self._ask(
            f'<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">{secret}</auth>', b"<success"
        )
        await self._ask(_OPEN, b"features")
        bind = f'<bind xmlns="urn:ietf:params:xml:ns:xmpp-bind"><resource>{secrets.token_hex(4)}</resource></bind>'
        await self._ask(f'<iq type="set" id="bind" xmlns="jabber:client">{bind}</iq>', b"id='bind'")
        await self._ask('<presence xmlns="jabber:client"/>', b"<presence")
        for room in self.rooms:
            enter = '<x xmlns="http://jabber.org/protocol/muc"><history maxstanzas="0"/></x>'
            to = f"{room}@{ROOMS}/{self.username}"
            await self._ask(f'<presence xmlns="jabber:client" to="{to}">{enter}</presence>', b"<subject")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.hang_up()

    @property
    def is_open(self) -> bool:
        return self._socket is not None and not self._socket.closed.done()

    def send(self, conversation: str, client_msg_id: str, content: str) -> None:
        partner = self.partners.get(conversation)
        kind, to = ("groupchat", f"{conversation}@{ROOMS}") if partner is None else ("chat", f"{partner}@{DOMAIN}")
        body = f"<body>{content}</body>"
        self._say(f'<message xmlns="jabber:client" type="{kind}" to="{to}" id="{client_msg_id}">{body}</message>')

    async def newest(self, conversation: str, limit: int) -> None:
        """The newest of the archive (XEP-0313) of a conversation of two."""
        fields = (
            '<field var="FORM_TYPE" type="hidden"><value>urn:xmpp:mam:2</value></field>'
            f'<field var="with"><value>{self.partners[conversation]}@{DOMAIN}</value></field>'
        )
        form = f'<x xmlns="jabber:x:data" type="submit">{fields}</x>'
        page = f'<set xmlns="http://jabber.org/protocol/rsm"><max>{limit}</max><before/></set>'
        query = f'<query xmlns="urn:xmpp:mam:2">{form}{page}</query>'
        await self._ask(f'<iq xmlns="jabber:client" type="set" id="newest">{query}</iq>', b"<fin")

    async def _ask(self, text: str, answer: bytes) -> None:
        """Until something comes that has `answer` in it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting = (answer, done)
        self._say(text)
        await asyncio.wait_for(done, 30)

    def _say(self, text: str) -> None:
        assert self._socket is not None
        self._socket.say(text.encode())

    def _heard(self, payload: bytes) -> None:
        if self._waiting is not None and self._waiting[0] in payload:
            if not self._waiting[1].done():
                self._waiting[1].set_result(None)
            self._waiting = None
        elif payload.startswith(b"<message"):
            head = payload[: payload.index(b">")]
            found = _ID.search(head)
            if found is not None:
                self._tally.delivered(found[1].decode(), time.monotonic())

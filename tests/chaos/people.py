"""
The people of a scene: clients that keep to docs/protocol.md and write down for the checker what they do and see.

Each has one outbox and one view. A proxy would send them to the node with the fewest connections; `Door` does.
"""

import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed

from tests.consistency.history import Recorder
from tests.system.client import ChatClient, View
from tests.system.servers import Node

VIEW = "socket"


class Door:
    """Which node the next connection goes to: of those that are up, the one with the fewest."""

    def __init__(self, nodes: list[Node]) -> None:
        self.up = list(nodes)
        self.held: Counter[str] = Counter()

    def choose(self) -> Node | None:
        return min(self.up, key=lambda node: (self.held[node.name], random.random())) if self.up else None


@dataclass(frozen=True)
class Acked:
    sent_at: float  # by the monotonic clock
    acked_at: float


class Person(ChatClient):
    """`absent`: for each conversation, the members who are nowhere and have a device."""

    def __init__(
        self,
        user: dict[str, Any],
        conversations: list[str],
        door: Door,
        recorder: Recorder,
        absent: dict[str, list[str]],
    ) -> None:
        super().__init__(user["token"], [], conversations)
        self.name: str = user["username"]
        self.token: str = user["token"]
        self.acks: list[Acked] = []
        self.turns_deaf = False  # to acks, as if each were lost on its way
        self.clock_off_s: float | None = None
        self.partner_is_here = False  # and it is their only conversation
        self.is_silent = False
        self._door, self._recorder, self._absent = door, recorder, absent
        self._chosen: str | None = None
        self._sent_at: dict[str, float] = {}
        self._tries: Counter[str] = Counter()

    @property
    def is_online(self) -> bool:
        return self._synced

    @property
    def waiting(self) -> set[str]:
        """What is in the outbox."""
        return {pending.client_msg_id for view in self.views.values() for pending in view.outbox}

    async def hang_up(self) -> None:
        """And be back at once, as after a reload of the page."""
        self._attempt = 0
        if self._socket is not None:
            with suppress(ConnectionClosed):
                await self._socket.close(1001)

    async def leave(self) -> None:
        """For days, perhaps; the outbox and what was seen are kept."""
        await self.__aexit__()
        self._socket, self._synced, self._attempt = None, False, 0

    async def come_back(self) -> None:
        await self.__aenter__()

    # --- what the checker hears of -----------------------------------------------------------------------------------
    def _take_message(self, message: dict[str, Any]) -> None:
        view = self.views.get(message["conversation_id"], View())
        had = view.cursor
        super()._take_message(message)
        for each in view.messages[had:]:
            self._recorder.apply(
                self.name,
                VIEW,
                each["conversation_id"],
                each["seq"],
                each["client_msg_id"],
                each["sender"]["username"],
                each["kind"],
            )

    async def _flush(self, conversation: str) -> None:
        for first in list(self.views[conversation].outbox)[:1]:
            if self._socket is None:
                break
            self._recorder.invoke(self.name, conversation, first.client_msg_id, self.name)
            self._tries[first.client_msg_id] += 1
            if first.client_msg_id not in self._sent_at:
                self._sent_at[first.client_msg_id] = time.monotonic()
                for member in self._absent.get(conversation, ()):
                    self._recorder.absent(self.name, member, conversation, first.client_msg_id)
        await super()._flush(conversation)

    async def _take_ack(self, frame: dict[str, Any]) -> None:
        if self.turns_deaf:
            return
        client_msg_id = frame["client_msg_id"]
        if client_msg_id not in self.acked:
            self.acks.append(Acked(self._sent_at[client_msg_id], time.monotonic()))
        self._recorder.ok(self.name, frame["conversation_id"], client_msg_id, self.name, frame["seq"])
        await super()._take_ack(frame)

    async def _take_nack(self, frame: dict[str, Any]) -> None:
        for conversation, view in self.views.items():
            for first in list(view.outbox)[:1]:
                if first.client_msg_id == frame.get("client_msg_id") and not frame["retry"]:
                    # A try before this one may have got through.
                    end = self._recorder.info if self._tries[first.client_msg_id] > 1 else self._recorder.fail
                    end(self.name, conversation, first.client_msg_id, self.name)
        await super()._take_nack(frame)

    # --- the connection ----------------------------------------------------------------------------------------------
    def _url(self) -> str:
        node = self._door.choose()
        if node is None:
            raise OSError("no node is up")
        self._chosen = node.name
        return node.socket_url

    async def _converse(self, socket: Any) -> float:
        at = self._chosen
        self._door.held[at] += 1
        try:
            return await super()._converse(socket)
        finally:
            self._door.held[at] -= 1

    async def _send(self, frame: dict[str, Any]) -> None:
        if self.clock_off_s is not None and frame["type"] == "message.send":
            frame["sent_at"] = time.time() + self.clock_off_s  # a field that nobody asked for
        await super()._send(frame)

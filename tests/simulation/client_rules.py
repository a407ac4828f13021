"""
The rules of a client, as static/chat/{timeline,outbox,backoff}.js have them: said again in Python, step by step.

tests/scenarios/*.json holds the two to each other: pytest and node play the same steps and expect the same answers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

import msgspec

GAP_S = 0.3
MAX_HELD = 1_000
BASE_S = 0.5
LONGEST_S = 30.0
CLOCK_S = 1e-9  # what adding up seconds may be off by

Message = dict[str, Any]  # as it came over the wire


def delay_s(attempt: int, random: Callable[[], float], at_least_s: float = 0.0) -> float:
    return max(at_least_s, random() * min(LONGEST_S, BASE_S * 2**attempt))


class Timeline:
    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.held: dict[int, Message] = {}
        self.gap_since: float | None = None

    def receive(self, message: Message, now: float) -> list[Message]:
        if message["seq"] > self.cursor and (len(self.held) < MAX_HELD or message["seq"] == self.cursor + 1):
            self.held[message["seq"]] = message
        return self._release(now)

    def receive_synced(self, synced: dict[str, Any], now: float) -> list[Message]:
        missed = [message for message in synced.get("messages", []) if message["seq"] > self.cursor]
        if missed:
            self.cursor = max(self.cursor, missed[0]["seq"] - 1)
        elif synced.get("more") is False and "last_seq" in synced:
            self.cursor = max(self.cursor, synced["last_seq"])
        for message in missed:
            self.held[message["seq"]] = message
        return self._release(now)

    def gap_due(self, now: float) -> bool:
        return self.gap_since is not None and now - self.gap_since >= GAP_S - CLOCK_S

    def _release(self, now: float) -> list[Message]:
        ready: list[Message] = []
        while (following := self.held.get(self.cursor + 1)) is not None:
            self.cursor = following["seq"]
            ready.append(following)
        for seq in [seq for seq in self.held if seq <= self.cursor]:
            del self.held[seq]
        if not self.held:
            self.gap_since = None
        elif self.gap_since is None or ready:
            self.gap_since = now
        return ready


class Entry(msgspec.Struct, frozen=True):
    client_msg_id: str
    conversation_id: str
    content: str
    written_at: float
    after_seq: int | None = None  # the last seq that was held when it was first sent; None: it never was
    state: Literal["pending", "failed"] = "pending"
    detail: str = ""


class Outcome(NamedTuple):
    kind: Literal["ack", "refused", "later", "lost"]
    seq: int = 0
    detail: str = ""
    after_s: float = 0.0


Send = Callable[[Entry], Awaitable[Outcome]]


class Outbox:
    """`storage` outlives the client."""

    def __init__(self, storage: dict[str, Entry], new_id: Callable[[], str], now: Callable[[], float]) -> None:
        self._storage, self._new_id, self._now = storage, new_id, now
        self._last_written_at = 0.0
        self._draining = self._again = False

    def entries(self) -> list[Entry]:
        return sorted(self._storage.values(), key=lambda entry: entry.written_at)

    def add(self, conversation_id: str, content: str) -> Entry:
        self._last_written_at = max(self._now(), self._last_written_at + 1)
        entry = Entry(self._new_id(), conversation_id, content, self._last_written_at)
        self._storage[entry.client_msg_id] = entry
        return entry

    def retry(self, client_msg_id: str) -> None:
        entry = self._storage.get(client_msg_id)
        if entry is not None and entry.state == "failed":
            self._storage[client_msg_id] = msgspec.structs.replace(entry, state="pending", detail="")

    def remove(self, client_msg_id: str) -> None:
        self._storage.pop(client_msg_id, None)

    async def drain(self, send: Send, held_seq: Callable[[str], int]) -> None:
        self._again = True
        if self._draining:
            return
        self._draining = True
        try:
            while self._again:
                self._again = False
                waiting = [entry.conversation_id for entry in self.entries() if entry.state == "pending"]
                await asyncio.gather(*(self._drain_one(each, send, held_seq) for each in dict.fromkeys(waiting)))
        finally:
            self._draining = False

    async def _drain_one(self, conversation_id: str, send: Send, held_seq: Callable[[str], int]) -> None:
        while (entry := self._oldest(conversation_id)) is not None:
            if entry.after_seq is None:
                tried = msgspec.structs.replace(entry, after_seq=held_seq(conversation_id))
                self._storage[entry.client_msg_id] = tried
            if await self._settle(entry, await send(entry)) == "lost":
                return

    def _oldest(self, conversation_id: str) -> Entry | None:
        waiting = (entry for entry in self.entries() if entry.state == "pending")
        return next((entry for entry in waiting if entry.conversation_id == conversation_id), None)

    async def _settle(self, entry: Entry, outcome: Outcome) -> Literal["lost", "next"]:
        if outcome.kind == "ack":
            self._storage.pop(entry.client_msg_id, None)
        elif outcome.kind == "refused":
            kept = self._storage.get(entry.client_msg_id)
            if kept is not None:
                failed = msgspec.structs.replace(kept, state="failed", detail=outcome.detail)
                self._storage[entry.client_msg_id] = failed
        elif outcome.kind == "later":
            await asyncio.sleep(outcome.after_s)
        return "lost" if outcome.kind == "lost" else "next"

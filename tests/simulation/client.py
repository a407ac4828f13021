"""
A person's app on one device, as static/chat/{connection,session}.js behave; the rules below them are client_rules.py.

The outbox lives on the device and outlives the app, which may be killed and opened again at any time.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from apps.accounts.people import Person
from tests.consistency.history import Recorder
from tests.simulation.client_rules import GAP_S, Entry, Outbox, Outcome, Timeline, delay_s
from tests.simulation.network import Link
from tests.simulation.scheduler import Process, Scheduler

ANSWER_S = 10.0
HEALTHY_S = 30.0

Frame = dict[str, Any]


class Device:
    """What stays when the app is closed."""

    def __init__(self, owner: Person, name: str) -> None:
        self.owner = owner
        self.name = f"{owner.username}-{name}"
        self.storage: dict[str, Entry] = {}
        self.opened = 0  # how often


class Client:
    """One run of the app. `connect` opens a link to some node, or returns None where nobody answers."""

    def __init__(
        self,
        scheduler: Scheduler,
        device: Device,
        conversations: list[str],
        recorder: Recorder,
        connect: Callable[["Client"], Link | None],
        new_id: Callable[[], str],
    ) -> None:
        device.opened += 1
        self.device, self._recorder, self._connect = device, recorder, connect
        self.view = f"{device.name}-{device.opened}"
        self.process = Process(scheduler, self.view)
        self.process.on_death = self._hang_up
        self._random = scheduler.random.random
        self._scheduler = scheduler
        self.timelines = {conversation: Timeline(0) for conversation in conversations}
        self._outbox = Outbox(device.storage, new_id, lambda: scheduler.now * 1_000)  # milliseconds, as a page has them
        self.notes: Callable[[str, str], None] = lambda who, what: None
        self._link: Link | None = None
        self._attempt = 0
        self._timers: set[Any] = set()
        self._unanswered: dict[str, asyncio.Future[Outcome]] = {}
        self._put_off: dict[str, int] = {}
        self._syncs = 0
        self._unanswered_sync: str | None = None
        self._is_open = self._synced = False
        self._heartbeat_due: Any = None
        self.process.call_soon(self._reconnect)

    # --- what a person does, and sees --------------------------------------------------------------------------------
    def say(self, conversation: str, content: str) -> None:
        self._outbox.add(conversation, content)
        self._flush()

    def lose_network(self) -> None:
        self._lost(1006)

    @property
    def waiting(self) -> int:
        """Messages on their way."""
        return sum(entry.state == "pending" for entry in self.device.storage.values())

    def is_up_to_date(self, heads: dict[str, int]) -> bool:
        return self._synced and all(timeline.cursor >= heads[name] for name, timeline in self.timelines.items())

    # --- the connection ----------------------------------------------------------------------------------------------
    def _reconnect(self) -> None:
        self._clear()
        self._link = self._connect(self)
        if self._link is None:
            self._lost(1006)
        else:
            self._later(ANSWER_S, self._lost, 1006)

    def received(self, link: Link, text: str) -> None:
        if link is self._link:
            self._take(msgspec.json.decode(text))

    def closed(self, link: Link, code: int) -> None:
        if link is self._link:
            self._lost(code)

    def _give_up(self) -> None:
        if self._is_open:
            self._lost(1006)

    def _lost(self, code: int) -> None:
        self.notes(self.view, f"lost its connection ({code})")
        self._clear()
        self._hang_up()
        self._is_open = self._synced = False
        for answer in list(self._unanswered.values()):
            _give(answer, Outcome("lost"))
        wait_s = delay_s(self._attempt, self._random)
        self._attempt += 1
        self._later(wait_s, self._reconnect)

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.hang_up()

    def _beat(self, interval_s: float) -> None:
        self._send({"type": "heartbeat"})
        self._heartbeat_due = self._later(ANSWER_S, self._give_up)
        self._later(interval_s, self._beat, interval_s)

    def _send(self, frame: Frame) -> bool:
        if self._link is None or not self._is_open:
            return False
        self._link.say(msgspec.json.encode(frame).decode())
        return True

    # --- the session -------------------------------------------------------------------------------------------------
    def _take(self, frame: Frame) -> None:
        match frame["type"]:
            case "hello":
                self._hello(frame)
            case "message.created":
                self._arrived(frame["message"])
            case "synced":
                self._take_synced(frame)
            case "ack":
                self._put_off.pop(frame["client_msg_id"], None)
                self._answered(frame["client_msg_id"], Outcome("ack", frame["seq"]))
            case "nack":
                self._refused(frame)
            case "heartbeat.ack":
                self._cancel(self._heartbeat_due)
            case "resync":
                self.notes(self.view, "is told to resync")
                self._later(self._random() * frame["spread_ms"] / 1_000, self._sync)

    def _hello(self, frame: Frame) -> None:
        self._clear()
        self._is_open = True
        self._later(HEALTHY_S, self._is_healthy)
        interval_s = frame["heartbeat_interval_ms"] / 1_000
        self._later(self._random() * interval_s, self._beat, interval_s)
        self._sync()

    def _is_healthy(self) -> None:
        self._attempt = 0

    def _sync(self) -> None:
        self._syncs += 1
        self._unanswered_sync = ref = f"sync-{self._syncs}"
        cursors = {conversation: timeline.cursor for conversation, timeline in self.timelines.items()}
        self._send({"type": "sync", "cursors": cursors, "ref": ref})
        self._later(ANSWER_S, self._sync_overdue, ref)

    def _sync_overdue(self, ref: str) -> None:
        if self._unanswered_sync == ref:
            self._give_up()

    def _take_synced(self, frame: Frame) -> None:
        if frame.get("ref") == self._unanswered_sync:
            self._unanswered_sync = None
        more = False
        for each in frame["conversations"]:
            timeline = self.timelines.get(each["conversation_id"])
            if timeline is None:
                continue
            if "error" in each:
                del self.timelines[each["conversation_id"]]
                continue
            self._in_order(timeline, timeline.receive_synced(each, self._scheduler.now))
            more = more or each["more"]
        if more:
            self._sync()
        else:
            self._caught_up()

    def _caught_up(self) -> None:
        self._synced = True
        self._flush()

    def _arrived(self, message: Frame) -> None:
        timeline = self.timelines.get(message["conversation_id"])
        if timeline is not None:
            self._in_order(timeline, timeline.receive(message, self._scheduler.now))

    def _in_order(self, timeline: Timeline, messages: list[Frame]) -> None:
        for message in messages:
            self._recorder.apply(
                self.device.owner.username,
                self.view,
                message["conversation_id"],
                message["seq"],
                message["client_msg_id"],
                message["sender"]["username"],
                message["kind"],
            )
        if timeline.gap_since is not None:
            self._later(GAP_S, self._close_gap, timeline)

    def _close_gap(self, timeline: Timeline) -> None:
        if timeline.gap_due(self._scheduler.now) and self._unanswered_sync is None:
            self.notes(self.view, f"closes a gap after {timeline.cursor}")
            self._sync()

    # --- sending -----------------------------------------------------------------------------------------------------
    def _flush(self) -> None:
        if self._synced:
            self.process.create_task(self._outbox.drain(self._try, self._held_seq))

    def _held_seq(self, conversation: str) -> int:
        timeline = self.timelines.get(conversation)
        return 0 if timeline is None else timeline.cursor

    async def _try(self, entry: Entry) -> Outcome:
        frame: Frame = {
            "type": "message.send",
            "client_msg_id": entry.client_msg_id,
            "conversation_id": entry.conversation_id,
            "content": entry.content,
        }
        if entry.after_seq is not None:
            frame["after_seq"] = entry.after_seq
        if not self._send(frame):
            return Outcome("lost")
        who = (self.device.name, entry.conversation_id, entry.client_msg_id, self.device.owner.username)
        self._recorder.invoke(*who)
        outcome = await self._answer(entry.client_msg_id)
        if outcome.kind == "ack":
            self._recorder.ok(*who, outcome.seq)
            self._arrived(self._as_message(entry, outcome.seq))
        elif outcome.kind == "refused" and entry.after_seq is None:
            self._recorder.fail(*who)
        else:
            self._recorder.info(*who)
        return outcome

    async def _answer(self, client_msg_id: str) -> Outcome:
        answer = self._unanswered[client_msg_id] = self.process.create_future()
        watchdog = self._later(ANSWER_S, self._give_up)
        outcome: Outcome = await answer
        del self._unanswered[client_msg_id]
        self._cancel(watchdog)
        return outcome

    def _refused(self, frame: Frame) -> None:
        if "client_msg_id" not in frame:
            if frame.get("ref") is not None and frame["ref"] == self._unanswered_sync:
                self._unanswered_sync = None
                self._later(frame.get("retry_after_ms", 1_000) / 1_000, self._sync)
            return
        client_msg_id = frame["client_msg_id"]
        if not frame["retry"]:
            self._put_off.pop(client_msg_id, None)
            self._answered(client_msg_id, Outcome("refused", detail=frame["detail"]))
            return
        attempt = self._put_off.get(client_msg_id, 0)
        self._put_off[client_msg_id] = attempt + 1
        after_s = delay_s(attempt, self._random, frame.get("retry_after_ms", 0) / 1_000)
        self._answered(client_msg_id, Outcome("later", after_s=after_s))

    def _answered(self, client_msg_id: str, outcome: Outcome) -> None:
        if client_msg_id in self._unanswered:
            _give(self._unanswered[client_msg_id], outcome)

    def _as_message(self, entry: Entry, seq: int) -> Frame:
        return {
            "conversation_id": entry.conversation_id,
            "seq": seq,
            "client_msg_id": entry.client_msg_id,
            "sender": {"username": self.device.owner.username},
            "kind": "text",
        }

    # --- timers, which end with the connection -----------------------------------------------------------------------
    def _later(self, seconds: float, callback: Callable[..., None], *args: Any) -> Any:
        timer = self.process.call_later(seconds, callback, *args)
        self._timers.add(timer)
        return timer

    def _cancel(self, timer: Any) -> None:
        if timer is not None:
            timer.cancel()
            self._timers.discard(timer)

    def _clear(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()


def _give(answer: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    if not answer.done():
        answer.set_result(outcome)

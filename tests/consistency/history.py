"""
What a run has to tell the checker: one JSON object per line, in the order in which it happened.

    op      type                  says
    send    invoke                a process tries to send a message; a further try has the same client_msg_id
            ok                    it has the ack, which says `seq`
            fail                  refused for good, on the first and only try: the message must not exist
            info                  given up, outcome unknown
    apply   ok                    the timeline of a view took a message, in the order of the lines
    stored  ok                    a message of the history as it was read afterwards, in the order of the answer
    read    ok                    ends such a reading of one conversation; `last_seq` is the head that the server names
    view    ok                    `member` ought to have the messages from `from_seq` to `to_seq` (null: to the end).
                                  Where `process` is one of the member's views, that view alone is held to it;
                                  any other process: all views of the member together
    absent  ok                    `member` was nowhere and has a device when the message was sent: a push is due
    push    ok                    a push for `member` was tried; `seq` is the newest message that it speaks of

`process` is who did it: for `send` one outbox, which has one message under way per conversation and sends the oldest
first; for `apply` one view, named member@view. An `invoke` without an end is as unknown as `info`. `time` is in
seconds; only people read it. Ids are strings: UUIDs, or whatever a simulation calls its people.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec

Seq = Annotated[int, msgspec.Meta(ge=1)]
Kind = Literal["text", "system"]


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", forbid_unknown_fields=True):
    time: float
    process: str
    conversation: str


class Send(Entry, tag="send", frozen=True, kw_only=True):
    type: Literal["invoke", "ok", "fail", "info"]
    client_msg_id: str
    sender: str
    seq: Seq | None = None

    def __post_init__(self) -> None:
        if (self.type == "ok") != (self.seq is not None):
            raise ValueError("`seq` belongs to `ok`, and to nothing else")


class Apply(Entry, tag="apply", frozen=True, kw_only=True):
    type: Literal["ok"] = "ok"
    member: str
    seq: Seq
    client_msg_id: str
    sender: str
    kind: Kind = "text"  # "system": the server said it, so nobody sent it


class Stored(Entry, tag="stored", frozen=True, kw_only=True):
    type: Literal["ok"] = "ok"
    seq: Seq
    client_msg_id: str
    sender: str
    kind: Kind = "text"


class Read(Entry, tag="read", frozen=True, kw_only=True):
    type: Literal["ok"] = "ok"
    last_seq: Annotated[int, msgspec.Meta(ge=0)]


class View(Entry, tag="view", frozen=True, kw_only=True):
    type: Literal["ok"] = "ok"
    member: str
    from_seq: Seq
    to_seq: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Absent(Entry, tag="absent", frozen=True, kw_only=True):
    type: Literal["ok"] = "ok"
    member: str
    client_msg_id: str


class Push(Entry, tag="push", frozen=True, kw_only=True):
    type: Literal["ok"] = "ok"
    member: str
    seq: Seq


Line = Send | Apply | Stored | Read | View | Absent | Push

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


class Rubbish(ValueError):
    """A line that is no operation; says which, and why."""


def encode(line: Line) -> bytes:
    return _encoder.encode(line) + b"\n"


def decode(raw: Iterable[bytes]) -> Iterator[Line]:
    """Raises Rubbish."""
    for number, text in enumerate(raw, 1):
        try:
            yield _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Rubbish(
                f"line {number}: {error}: {text[:200].decode(errors='replace').rstrip() or 'empty'}"
            ) from None


def read_file(path: Path) -> Iterator[Line]:
    """Raises Rubbish, OSError."""
    with path.open("rb") as file:
        yield from decode(file)


class Recorder:
    """
    Gives each line to `sink` with the time: `recording(path)` writes a file, `list.append` keeps them in memory.

    A process name may be anything; `apply` makes member@view of its two arguments.
    """

    def __init__(self, sink: Callable[[Line], object], now: Callable[[], float] = time.time) -> None:
        self._sink = sink
        self._now = now

    def invoke(self, process: str, conversation: str, client_msg_id: str, sender: str) -> None:
        self._send("invoke", process, conversation, client_msg_id, sender)

    def ok(self, process: str, conversation: str, client_msg_id: str, sender: str, seq: int) -> None:
        self._send("ok", process, conversation, client_msg_id, sender, seq)

    def fail(self, process: str, conversation: str, client_msg_id: str, sender: str) -> None:
        self._send("fail", process, conversation, client_msg_id, sender)

    def info(self, process: str, conversation: str, client_msg_id: str, sender: str) -> None:
        self._send("info", process, conversation, client_msg_id, sender)

    def apply(
        self, member: str, view: str, conversation: str, seq: int, client_msg_id: str, sender: str, kind: Kind = "text"
    ) -> None:
        self._sink(
            Apply(
                time=self._now(),
                process=f"{member}@{view}",
                conversation=conversation,
                member=member,
                seq=seq,
                client_msg_id=client_msg_id,
                sender=sender,
                kind=kind,
            )
        )

    def stored(
        self, process: str, conversation: str, seq: int, client_msg_id: str, sender: str, kind: Kind = "text"
    ) -> None:
        self._sink(
            Stored(
                time=self._now(),
                process=process,
                conversation=conversation,
                seq=seq,
                client_msg_id=client_msg_id,
                sender=sender,
                kind=kind,
            )
        )

    def read(self, process: str, conversation: str, last_seq: int) -> None:
        self._sink(Read(time=self._now(), process=process, conversation=conversation, last_seq=last_seq))

    def view(self, process: str, member: str, conversation: str, from_seq: int, to_seq: int | None = None) -> None:
        self._sink(
            View(
                time=self._now(),
                process=process,
                conversation=conversation,
                member=member,
                from_seq=from_seq,
                to_seq=to_seq,
            )
        )

    def absent(self, process: str, member: str, conversation: str, client_msg_id: str) -> None:
        self._sink(
            Absent(
                time=self._now(),
                process=process,
                conversation=conversation,
                member=member,
                client_msg_id=client_msg_id,
            )
        )

    def push(self, process: str, member: str, conversation: str, seq: int) -> None:
        self._sink(Push(time=self._now(), process=process, conversation=conversation, member=member, seq=seq))

    def _send(
        self,
        outcome: Literal["invoke", "ok", "fail", "info"],
        process: str,
        conversation: str,
        client_msg_id: str,
        sender: str,
        seq: int | None = None,
    ) -> None:
        self._sink(
            Send(
                time=self._now(),
                process=process,
                conversation=conversation,
                type=outcome,
                client_msg_id=client_msg_id,
                sender=sender,
                seq=seq,
            )
        )


@contextmanager
def recording(path: Path, now: Callable[[], float] = time.time) -> Iterator[Recorder]:
    """A recorder that appends to `path`, unbuffered: a line is one write, so several processes may share the file."""
    with path.open("ab", buffering=0) as file:
        yield Recorder(lambda line: file.write(encode(line)), now)

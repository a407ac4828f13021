"""
Proof that nothing was lost while it was fast: what clients saw and what the history holds, for tests.consistency.

The open loop does not wait for acks, so each message counts as an outbox of its own; a view is a person's connection.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from tests.consistency.checker import check
from tests.consistency.history import Apply, Line, Read, Send, Stored, View, encode, read_file
from tests.load import crowd as crowds
from tests.load.chat import ChatClient
from tests.load.crowd import Crowd
from tests.load.tally import Tally


async def read_again(crowd: Crowd[ChatClient]) -> list[ChatClient]:
    """
    Let everyone catch up; then every conversation from its start, by new connections of members.

    Each conversation is in one of these clients, as the history has it.
    """
    await asyncio.gather(*(client.catch_up() for client in crowd.clients if client.is_open))
    readers: dict[int, ChatClient] = {}
    for conversation in crowd.conversations():
        first = conversation.members[0]
        reader = readers.setdefault(first, crowd.clients[first].twin(Tally()))
        reader.cursors[conversation.id] = 0
    await crowds.connect(list(readers.values()))
    await asyncio.gather(*(reader.catch_up() for reader in readers.values()))
    crowds.close(readers.values())
    return list(readers.values())


def judge(crowd: Crowd[ChatClient], readers: list[ChatClient], file: Path) -> list[str]:
    """What the checker finds. `file` is written for it, and stays if it finds anything."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        out.writelines(map(encode, _lines(crowd, readers)))
    violations = [str(violation) for violation in check(read_file(file))]
    if not violations:
        file.unlink()
    return violations


def _lines(crowd: Crowd[ChatClient], readers: list[ChatClient]) -> Iterator[Line]:
    seen: list[Line] = []
    for client in crowd.clients:
        seen.extend(_said(client))
        seen.extend(_applied(client))
    yield from sorted(seen, key=lambda line: line.time)
    for reader in readers:
        yield from _stored(reader)
    for conversation in crowd.conversations():
        for client in (crowd.clients[index] for index in conversation.members):
            yield View(
                time=0, process=f"{client.username}@load", conversation=conversation.id,
                member=client.username, from_seq=1,
            )  # fmt: skip


def _said(client: ChatClient) -> Iterator[Line]:
    for said in client.said:
        yield Send(
            time=said.time, process=f"{client.username}/{said.client_msg_id}", conversation=said.conversation,
            type=said.what, client_msg_id=said.client_msg_id, sender=client.username, seq=said.seq,
        )  # fmt: skip


def _applied(client: ChatClient) -> Iterator[Line]:
    process = f"{client.username}@load"
    for time, message in client.applied:
        yield Apply(
            time=time, process=process, conversation=message.conversation_id, member=client.username, seq=message.seq,
            client_msg_id=message.client_msg_id, sender=message.sender.username, kind=message.kind,
        )  # fmt: skip


def _stored(reader: ChatClient) -> Iterator[Line]:
    for time, message in reader.applied:
        yield Stored(
            time=time, process=reader.username, conversation=message.conversation_id, seq=message.seq,
            client_msg_id=message.client_msg_id, sender=message.sender.username, kind=message.kind,
        )  # fmt: skip
    for conversation, head in reader.heads.items():
        yield Read(time=0, process=reader.username, conversation=conversation, last_seq=head)

"""The people of a run: their clients, and who is in which conversation."""

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tests.load.tally import Tally
from tests.load.websocket import Refused

CONNECTING_AT_ONCE = 64
MAX_TRIES = 10
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0


class Client(Protocol):
    """One person's connection to what is measured. It tells the tally of the run what comes back."""

    username: str
    acks: bool  # whether the server says that it has a message

    async def connect(self) -> None:
        """Until messages reach it. Raises OSError, TimeoutError, Refused."""

    def send(self, conversation: str, client_msg_id: str, content: str) -> None: ...

    def close(self) -> None: ...

    @property
    def is_open(self) -> bool: ...


Some = TypeVar("Some", bound=Client)


@dataclass(frozen=True)
class Conversation:
    id: str
    members: Sequence[int]  # by their index among the clients
    deliveries: int  # of one message


@dataclass
class Crowd(Generic[Some]):
    tally: Tally
    clients: Sequence[Some]
    pairs: list[Conversation]
    groups: list[Conversation] = field(default_factory=list)

    def conversations(self) -> Iterator[Conversation]:
        yield from self.pairs
        yield from self.groups


async def connect(clients: Sequence[Client]) -> tuple[float, int]:
    """All of them, so many at once: the seconds it took, and how often one was turned away."""
    started, turned_away = time.perf_counter(), 0
    waiting = iter(clients)

    async def one_after_the_other() -> None:
        nonlocal turned_away
        for client in waiting:
            turned_away += await enter(client)

    await asyncio.gather(*(one_after_the_other() for _ in range(CONNECTING_AT_ONCE)))
    return time.perf_counter() - started, turned_away


async def enter(client: Client) -> int:
    """Connect, and try again as the protocol has it; how often it failed. Raises Refused after many tries."""
    failure: Exception | None = None
    for attempt in range(MAX_TRIES):
        try:
            await client.connect()
        except (OSError, TimeoutError, Refused) as error:
            client.close()
            failure = error
            at_least = error.retry_after_s if isinstance(error, Refused) else 0.0
            await asyncio.sleep(max(at_least, random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2**attempt))))
        else:
            return attempt
    raise Refused(f"{client.username} was turned away {MAX_TRIES} times") from failure


def close(clients: Iterable[Client]) -> None:
    for client in clients:
        client.close()

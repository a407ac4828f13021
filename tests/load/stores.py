"""
What Redis pays for what presence and the bus ask of it: `python -m tests.load.stores CONVERSATION SENDER NUMBER BYTES`.

costs.py runs it in the environment of a server. It writes so many messages of so many bytes into the history as well,
of which no two are alike, so that compression finds little. Prints one JSON object.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID, uuid4

import django
import msgspec

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings.base")
django.setup()

from django.conf import settings  # noqa: E402  (needs the app registry)

from apps.conversations.history import store_from_settings  # noqa: E402
from apps.conversations.messages import Draft  # noqa: E402
from apps.conversations.models import Conversation  # noqa: E402
from apps.presence.bus import NODES_GROUP, ChannelLayer  # noqa: E402
from apps.presence.registry import Registry  # noqa: E402

AT_ONCE = 50
ROUNDS = 60
IN_A_PIPELINE = 200
PEOPLE = 5_000
GROUP = 100
CHANNEL = "node.measured.1"
FRAME = {"type": "frame", "to": bytes(16), "frame": bytes(430), "origin": CHANNEL, "number": 1}


class Store:
    """Redis, as one node uses it, and what it says of itself."""

    def __init__(self) -> None:
        self.layer = ChannelLayer(settings.REDIS_URL)
        self.pipe = self.layer.pipe()
        self.registry = Registry(self.pipe)

    async def cpu_us(self, work: Callable[[], Awaitable[object]], times: int) -> float:
        """Of each time; a pipeline is full of them."""
        before = await self._cpu_s()
        for _ in range(ROUNDS):
            await asyncio.gather(*(work() for _ in range(times)))
        return (await self._cpu_s() - before) / ROUNDS / times * 1e6

    async def _cpu_s(self) -> float:
        return await self._says("cpu", "used_cpu_user") + await self._says("cpu", "used_cpu_sys")

    async def memory_bytes(self) -> float:
        return await self._says("memory", "used_memory")

    async def _says(self, section: str, name: str) -> float:
        lines = (await self.pipe.execute("INFO", section)).decode().splitlines()
        return float(dict(line.split(":", 1) for line in lines if ":" in line)[name])


async def redis_costs() -> dict[str, float]:
    store = Store()
    people = [str(uuid4()) for _ in range(PEOPLE)]
    roster = store.registry.online
    memory = await store.memory_bytes()
    await roster.arrive(CHANNEL, people)
    entry_bytes = (await store.memory_bytes() - memory) / PEOPLE
    renewal = await store.cpu_us(lambda: roster.arrive(CHANNEL, people), 1) / PEOPLE
    pair = await store.cpu_us(lambda: roster.nodes_of(people[:2]), IN_A_PIPELINE)
    group = await store.cpu_us(lambda: roster.nodes_of(people[:GROUP]), 20)
    await store.layer.subscribe(CHANNEL, NODES_GROUP)
    listening = asyncio.create_task(_listen(store.layer))
    publish = await store.cpu_us(lambda: store.layer.publish(CHANNEL, FRAME), IN_A_PIPELINE)
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
    await roster.depart(CHANNEL, people)
    await store.layer.flush()
    return {
        "lookup_redis": pair,
        "lookup_more_redis": (group - pair) / (GROUP - 2),
        "publish_redis": publish,
        "renewal_redis": renewal,
        "entry_bytes": entry_bytes,
    }


async def _listen(layer: ChannelLayer) -> None:
    while True:
        await layer.receive(CHANNEL)


async def write(conversation_id: UUID, sender_id: UUID, number: int, text_bytes: int, members_version: int) -> None:
    history = store_from_settings()
    await history.start()
    for _ in range(0, number, AT_ONCE):
        texts = [secrets.token_urlsafe(text_bytes)[:text_bytes] for _ in range(AT_ONCE)]
        await history.append([Draft(conversation_id, sender_id, uuid4(), text) for text in texts], members_version)
    await history.close()


async def measure(
    conversation_id: UUID, sender_id: UUID, number: int, text_bytes: int, version: int
) -> dict[str, float]:
    await write(conversation_id, sender_id, number, text_bytes, version)
    return await redis_costs()


def main() -> None:
    conversation_id, sender_id = UUID(sys.argv[1]), UUID(sys.argv[2])
    version = Conversation.objects.values_list("members_version", flat=True).get(id=conversation_id)
    found = asyncio.run(measure(conversation_id, sender_id, int(sys.argv[3]), int(sys.argv[4]), version))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()

"""
Messages straight into the log, by the log's own door: `python -m tests.load.long_history CONVERSATION NUMBER`.

For conversations so long that to say all of it would take hours. The environment says which store.
"""

import asyncio
import os
import sys
from uuid import UUID, uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatproject.settings.base")
django.setup()

from apps.conversations.history import cassandra, store_from_settings  # noqa: E402  (needs the app registry)
from apps.conversations.messages import Draft  # noqa: E402
from apps.conversations.models import Conversation  # noqa: E402

AT_ONCE = 1_000
cassandra.MAX_GROUP = AT_ONCE  # nobody waits here for what comes behind them


async def write(conversation_id: UUID, sender_id: UUID, number: int, members_version: int) -> None:
    store = store_from_settings()
    await store.start()
    for first in range(0, number, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, number))
        drafts = [Draft(conversation_id, sender_id, uuid4(), f"{each} green bottles") for each in numbers]
        await store.append(drafts, members_version)
    await store.close()


def main() -> None:
    conversation = Conversation.objects.get(id=sys.argv[1])
    sender = conversation.memberships.earliest("id")
    asyncio.run(write(conversation.id, sender.user_id, int(sys.argv[2]), conversation.members_version))


if __name__ == "__main__":
    main()

"""
A process with some writers on one conversation.

    python -m tests.contract.writer sqlite|cassandra WHERE CONVERSATION ROUNDS

In each round a writer says several things, alone and in groups, and prints under which number each was stored.
"""

import asyncio
import sys
from uuid import UUID, uuid4

from apps.conversations.messages import Draft
from tests.contract.backends import BACKENDS

WRITERS = 4
GROUPS = (1, 3, 1, 2, 1)  # how many drafts in each append of a round
MESSAGES = WRITERS * sum(GROUPS)


async def main(kind: str, where: str, conversation_id: UUID, rounds: int) -> None:
    store = BACKENDS[kind](where).store(deadline_s=60)
    await store.start()

    async def write() -> None:
        sender_id = uuid4()
        for size in GROUPS * rounds:
            drafts = [Draft(conversation_id, sender_id, uuid4(), "hello") for _ in range(size)]
            for message in await store.append(drafts, members_version=0):
                print(message.seq, message.client_msg_id, flush=True)

    await asyncio.gather(*(write() for _ in range(WRITERS)))
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], UUID(sys.argv[3]), int(sys.argv[4])))

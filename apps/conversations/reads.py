"""What a person may see: conversations, pages of messages, what they missed, who is here. Nothing here is changed."""

import asyncio
import base64
import binascii
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
from msgspec import UNSET

from apps.accounts.people import Person
from apps.conversations import memberships
from apps.conversations.database import in_db
from apps.conversations.errors import BadFrame
from apps.conversations.history import log
from apps.conversations.memberships import Member, Members
from apps.conversations.messages import Message
from apps.conversations.models import Conversation, Membership
from apps.conversations.protocol import (
    ConversationOut,
    MemberOut,
    MessageOut,
    PresenceOut,
    SyncedConversation,
    message_out,
)
from apps.presence import last_seen, node

SYNC_PER_CONVERSATION = 200
SYNC_TOTAL = 2_000  # messages in one `synced`; the rest of the conversations say `more`
SYNC_BYTES = 256_000  # about; below what a client may be behind before it is cut
MESSAGE_OVERHEAD_BYTES = 350  # of a message, besides its content
CONCURRENT_READS = 8
FEW = 8  # conversations, which a sync asks about at once: they have no more than SYNC_TOTAL


# --- messages --------------------------------------------------------------------------------------------------------
async def messages_page(
    actor: Person,
    conversation_id: UUID,
    *,
    before_seq: int | None = None,
    after_seq: int | None = None,
    limit: int = 50,
) -> tuple[list[MessageOut], bool]:
    """Oldest first, and whether there are more in the direction asked. Raises NotFound, NotAMember, Unavailable."""
    start = (await memberships.of(conversation_id, actor.id)).get(actor.id).start_seq
    store = await log()
    if after_seq is not None:
        found = await store.after(conversation_id, max(after_seq, start - 1), limit + 1)
        page, has_more = found[:limit], len(found) > limit
    else:
        found = [
            message for message in await store.before(conversation_id, before_seq, limit + 1) if message.seq >= start
        ]
        page, has_more = found[-limit:], len(found) > limit
    return await _outs(page), has_more


async def sync(actor: Person, cursors: Mapping[UUID, int]) -> list[SyncedConversation]:
    """What this person has missed in each conversation since its cursor; bounded work, `more` where there is more."""
    starts = await memberships.starts_of(actor.id, cursors)
    held = {conversation_id: max(cursors[conversation_id], start - 1) for conversation_id, start in starts.items()}
    pages, last_seqs = await (_missed_in_few(held) if len(held) <= FEW else _missed_in_many(held))
    pages = _that_fit(pages)
    outs = iter(await _outs([message for page in pages.values() for message in page]))
    messages = {conversation_id: [next(outs) for _ in page] for conversation_id, page in pages.items()}
    return [
        _synced(conversation_id, held[conversation_id], messages.get(conversation_id, []), last_seqs[conversation_id])
        if conversation_id in starts
        else SyncedConversation(conversation_id, error="not_a_member")
        for conversation_id in cursors
    ]


async def _missed_in_few(held: Mapping[UUID, int]) -> tuple[dict[UUID, list[Message]], dict[UUID, int]]:
    """
    The messages after each cursor, as many as one answer has room for, and the last number of each conversation.

    One question for each: it begins with the message at the cursor, and asks for one more than there is room for, so
    that its answer tells by itself where the conversation ends. It does not if there are more, or no such message.
    """
    store = await log()
    limit = SYNC_PER_CONVERSATION + 2
    questions = (store.after(each, max(seq - 1, 0), limit) for each, seq in held.items())
    answers = dict(zip(held, await asyncio.gather(*questions), strict=True))
    pages = {
        each: [message for message in found if message.seq > held[each]][:SYNC_PER_CONVERSATION]
        for each, found in answers.items()
    }
    ends = {
        each: found[-1].seq if found else 0
        for each, found in answers.items()
        if (found or not held[each]) and len(found) < limit
    }
    if untold := answers.keys() - ends.keys():
        newest = await store.latest(untold)
        ends |= {each: newest[each].seq if each in newest else 0 for each in untold}
    return pages, ends


async def _missed_in_many(held: Mapping[UUID, int]) -> tuple[dict[UUID, list[Message]], dict[UUID, int]]:
    """The same, for those in most of which nothing is new: where each ends is one question for all."""
    store = await log()
    newest = await store.latest(held)
    last_seqs = {each: newest[each].seq if each in newest else 0 for each in held}
    gate = asyncio.Semaphore(CONCURRENT_READS)
    budget = SYNC_TOTAL

    async def missed(conversation_id: UUID) -> list[Message]:
        nonlocal budget
        async with gate:
            if budget <= 0:
                return []
            found = await store.after(conversation_id, held[conversation_id], SYNC_PER_CONVERSATION)
            budget -= len(found)
            return found

    behind = [each for each, seq in held.items() if last_seqs[each] > seq]
    return dict(zip(behind, await asyncio.gather(*map(missed, behind)), strict=True)), last_seqs


def _that_fit(pages: Mapping[UUID, list[Message]]) -> dict[UUID, list[Message]]:
    """The first messages of the pages, until one frame is full; at least one."""
    room = SYNC_BYTES
    fit: dict[UUID, list[Message]] = {}
    for conversation_id, page in pages.items():
        fit[conversation_id] = []
        for message in page:
            if room <= 0:
                break
            room -= len(message.content.encode()) + MESSAGE_OVERHEAD_BYTES
            fit[conversation_id].append(message)
    return fit


def _synced(conversation_id: UUID, held: int, messages: list[MessageOut], last_seq: int) -> SyncedConversation:
    holds = messages[-1].seq if messages else held  # with this answer
    last_seq = max(last_seq, holds) if messages else last_seq
    return SyncedConversation(conversation_id, messages, last_seq, more=holds < last_seq)


async def _outs(messages: Collection[Message]) -> list[MessageOut]:
    people = await memberships.senders({message.sender_id for message in messages})
    return [message_out(message, people[message.sender_id]) for message in messages]


# --- conversations ---------------------------------------------------------------------------------------------------
async def conversations_page(
    actor: Person, cursor: str | None = None, limit: int = 50
) -> tuple[list[ConversationOut], str | None]:
    """Mine, the most recently active first, and the cursor of the next page. Raises BadFrame for a bad cursor."""
    after = _decode_cursor(cursor) if cursor else None
    places = await in_db(_places_of, actor.id)
    newest = await (await log()).latest([place.conversation_id for place in places])
    keyed = sorted(((_activity(place, newest), str(place.conversation_id)), place) for place in places)[::-1]
    page = [(key, place) for key, place in keyed if after is None or key < after][: limit + 1]
    shown = [place for _, place in page[:limit]]
    found = await in_db(_members_of, [place.conversation_id for place in shown])
    mine = {members.conversation_id: members for members in found if actor.id in members.present}
    outs = [
        await _conversation_out(members, members.get(actor.id), place.last_read_seq, newest.get(place.conversation_id))
        for place in shown
        if (members := mine.get(place.conversation_id))  # None: left meanwhile
    ]
    return outs, _encode_cursor(page[limit - 1][0]) if len(page) > limit else None


async def conversation(actor: Person, conversation_id: UUID) -> ConversationOut:
    """Raises NotFound, NotAMember, Unavailable."""
    members = await memberships.of(conversation_id, actor.id)
    return (await conversation_for(members, [actor.id]))[actor.id]


async def conversation_for(members: Members, user_ids: Collection[UUID]) -> dict[UUID, ConversationOut]:
    """The conversation as each of these members sees it."""

    def rows() -> dict[UUID, int]:
        mine = Membership.objects.filter(conversation_id=members.conversation_id, user_id__in=list(user_ids))
        return dict(mine.values_list("user_id", "last_read_seq"))

    read = await in_db(rows)
    newest = (await (await log()).latest([members.conversation_id])).get(members.conversation_id)
    return {
        user_id: await _conversation_out(members, members.get(user_id), read.get(user_id, 0), newest)
        for user_id in user_ids
    }


async def _conversation_out(
    members: Members, viewer: Member, last_read_seq: int, newest: Message | None
) -> ConversationOut:
    last_seq = 0 if newest is None else newest.seq
    visible = newest if newest is not None and newest.seq >= viewer.start_seq else None
    return ConversationOut(
        id=members.conversation_id,
        kind=members.kind,
        title=members.title,
        members=[
            MemberOut(member.person.id, member.person.username, member.person.display_name, member.role)
            for member in members.present.values()
        ],
        last_seq=last_seq,
        last_read_seq=last_read_seq,
        unread_count=unread(viewer.person.id, viewer.start_seq, last_read_seq, newest),
        last_message=None if visible is None else (await _outs([visible]))[0],
    )


class ConversationWishes(msgspec.Struct, frozen=True):
    """How a member wants to be told by pushes of what is said in a conversation."""

    muted_until: datetime | None = None
    mentions_only: bool = False


async def conversation_wishes(actor: Person, conversation_id: UUID) -> ConversationWishes:
    """Raises NotFound, NotAMember, Unavailable."""
    await memberships.of(conversation_id, actor.id)
    mine = Membership.objects.filter(conversation_id=conversation_id, user_id=actor.id)
    return ConversationWishes(*await in_db(mine.values_list("muted_until", "mentions_only").get))


def unread(viewer_id: UUID, start_seq: int, last_read_seq: int, newest: Message | None) -> int:
    """Whoever wrote the newest message has seen what stood before it."""
    if newest is None or (newest.sender_id == viewer_id and newest.seq >= start_seq):
        return 0
    return max(0, newest.seq - max(last_read_seq, start_seq - 1))


class _Place(NamedTuple):
    """A person's, in a conversation."""

    conversation_id: UUID
    created_at: datetime  # the conversation
    last_read_seq: int


def _places_of(user_id: UUID) -> list[_Place]:
    mine = Membership.objects.filter(user_id=user_id, left_at__isnull=True)
    columns = mine.values_list("conversation_id", "conversation__created_at", "last_read_seq")
    return [_Place(*row) for row in columns]


def _members_of(conversation_ids: Collection[UUID]) -> list[Members]:
    return memberships.snapshots(list(Conversation.objects.filter(id__in=conversation_ids)))


def _activity(place: _Place, newest: Mapping[UUID, Message]) -> str:
    message = newest.get(place.conversation_id)
    moment = place.created_at if message is None else message.sent_at
    return moment.isoformat(timespec="milliseconds")


def _encode_cursor(key: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode("|".join(key).encode()).decode()


def _decode_cursor(cursor: str) -> tuple[str, str]:
    try:
        moment, conversation_id = base64.urlsafe_b64decode(cursor.encode()).decode().split("|")
        return datetime.fromisoformat(moment).isoformat(timespec="milliseconds"), str(UUID(conversation_id))
    except (binascii.Error, ValueError) as error:
        raise BadFrame("This cursor is not one of ours.", pointer="/cursor") from error


# --- presence --------------------------------------------------------------------------------------------------------
async def presence_of(user_ids: Collection[UUID], *, with_nodes: bool = False) -> list[PresenceOut]:
    """Online or offline, and since when, of those of these users who exist. Raises Unavailable."""
    people = await memberships.names(user_ids)
    nodes = await node.current().nodes_of(people)
    seen = await last_seen.of([str(user_id) for user_id in people])
    return [
        PresenceOut(
            user_id,
            "online" if nodes[user_id] else "offline",
            seen.get(str(user_id)),
            [node.name_of(channel) for channel in nodes[user_id]] if with_nodes else UNSET,
        )
        for user_id in people
    ]

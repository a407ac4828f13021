"""
Who is in a conversation, from memory: no SQL on the path of a message.

A snapshot is kept for 30 s and dropped on every node as soon as one of our services changes it. A caller who is not in
the snapshot is always looked up again, so that a new member is never refused, and a stranger learns nothing from how
long the answer took.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from django.db.models import Q

from apps.accounts import aio
from apps.accounts.models import Block, User
from apps.accounts.people import Person
from apps.conversations.database import in_db
from apps.conversations.errors import Blocked, Forbidden, NotAMember, NotFound, Unavailable
from apps.conversations.models import Conversation, Membership

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

KEEP_S = 30
MAX_KEPT = 50_000
MAX_EXPIRED = 1_000


class Member(msgspec.Struct, frozen=True):
    person: Person
    role: str
    start_seq: int  # the first message they may see


class Members(msgspec.Struct, frozen=True):
    """One conversation and everyone in it."""

    conversation_id: UUID
    kind: str
    title: str
    present: dict[UUID, Member]
    gone: frozenset[UUID]
    blocked: bool  # a direct conversation in which one has blocked the other
    version: int  # counts the changes of who is present

    def get(self, user_id: UUID) -> Member:
        """Raises NotFound for a stranger, NotAMember for one who has left."""
        if user_id in self.present:
            return self.present[user_id]
        if user_id in self.gone:
            raise NotAMember("You are no longer in this conversation.")
        raise NotFound("There is no such conversation.")

    def check_may_send(self, user_id: UUID) -> Person:
        """Returns the sender. Raises NotFound, NotAMember, Blocked."""
        member = self.get(user_id)
        if self.blocked:
            raise Blocked("One of you has blocked the other.")
        return member.person

    def check_may_manage(self, user_id: UUID) -> None:
        """Raises NotFound, NotAMember, Forbidden."""
        member = self.get(user_id)
        if self.kind != Conversation.Kind.GROUP:
            raise Forbidden("A direct conversation has no title, roles or further members.")
        if member.role == Membership.Role.MEMBER:
            raise Forbidden("Only an owner or admin may do this.")


class Kept(Generic[K, V]):
    """The newest 50,000 values, each for 30 s; older ones are still there for when the database is away."""

    def __init__(self) -> None:
        self._values: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self.moment = 0  # counts what has expired
        self._expired: OrderedDict[K, int] = OrderedDict()  # the newest of these, and the moment of each
        self._forgotten = 0  # any other may have expired up to this moment

    def fresh(self, key: K) -> V | None:
        until, value = self._values.get(key, (0.0, None))
        return value if time.monotonic() < until else None

    def stale(self, key: K) -> V | None:
        return self._values.get(key, (0.0, None))[1]

    def keep(self, key: K, value: V) -> None:
        self._values[key] = (time.monotonic() + KEEP_S, value)
        self._values.move_to_end(key)
        while len(self._values) > MAX_KEPT:
            self._values.popitem(last=False)

    def expire(self, key: K) -> None:
        self.moment += 1
        self._expired[key] = self.moment
        self._expired.move_to_end(key)
        if len(self._expired) > MAX_EXPIRED:
            _, self._forgotten = self._expired.popitem(last=False)
        if key in self._values:
            self._values[key] = (0.0, self._values[key][1])

    def expire_all(self) -> None:
        self.moment += 1
        self._expired.clear()
        self._forgotten = self.moment
        self._values = OrderedDict((key, (0.0, value)) for key, (_, value) in self._values.items())

    def expired_since(self, key: K, moment: int) -> bool:
        """Then what was being read at that moment is not to be kept. It may say so of a key that did not expire."""
        return self._expired.get(key, self._forgotten) > moment


conversations: Kept[UUID, Members] = Kept()
starts: Kept[UUID, dict[UUID, int]] = Kept()  # the first message that some of a conversation's members may see
people: Kept[UUID, Person] = Kept()


async def of(conversation_id: UUID, user_id: UUID) -> Members:
    """The conversation as this user may see it. Raises NotFound, NotAMember, Unavailable."""
    members = conversations.fresh(conversation_id)
    if members is None or user_id not in members.present:
        members = await load(conversation_id, user_id)
    members.get(user_id)
    return members


async def known(conversation_id: UUID) -> Members:
    """The conversation for our own use, whoever asks. Raises NotFound, Unavailable."""
    return conversations.fresh(conversation_id) or await load(conversation_id, None)


async def newer(conversation_id: UUID, log_version: int) -> Members:
    """
    After the log has told that they changed. Raises NotFound, Unavailable.

    The log counts no further than the database, unless that was restored from a backup older than the log. Then the
    database takes over where the log is: who is a member is what it says now.
    """
    for _ in range(2):  # what another had begun to read may be from before
        remembered = conversations.fresh(conversation_id)
        if remembered is not None and remembered.version < log_version:
            expire(conversation_id)  # the first of those who are told; the others wait for what it reads
        members = await known(conversation_id)
        if members.version >= log_version:
            return members
    stored = await in_db(_load, conversation_id, None)
    if stored is not None and stored.version < log_version:
        logger.error("the database is older than the history", extra={"conversation_id": str(conversation_id)})
        behind = Conversation.objects.filter(id=conversation_id, members_version__lt=log_version)
        await in_db(behind.update, members_version=log_version)
    expire(conversation_id)
    return await load(conversation_id, None)


async def load(conversation_id: UUID, user_id: UUID | None) -> Members:
    """From the database, or, while that is away, as last known to have this user. Raises NotFound, Unavailable."""
    try:
        members = await _read(conversation_id, user_id)
    except Unavailable as error:
        last_known = conversations.stale(conversation_id)
        if last_known is None or (user_id is not None and user_id not in last_known.present):
            raise
        logger.warning("a conversation goes on as last known: %s", error)
        return last_known
    if members is None:
        raise NotFound("There is no such conversation.")
    return members


class _Reading(NamedTuple):
    moment: int  # at which it began
    task: asyncio.Task[Members | None]


@aio.per_loop
def _readings() -> dict[UUID, _Reading]:
    return {}


async def _read(conversation_id: UUID, user_id: UUID | None) -> Members | None:
    """
    What `_load` returns. One reads for everyone who asks meanwhile: a large group takes long.

    Whoever joins a reading that began before may not be in it yet. The second one that they wait for began afterwards.
    """
    for is_second in (False, True):
        reading = _readings().get(conversation_id)
        if reading is None:
            reading = _begin_to_read(conversation_id, user_id)
            members = await asyncio.shield(reading.task)
            if members is None:
                return None
        else:
            if not await _was_known(conversation_id, user_id):
                return None  # as fast as of a conversation that does not exist
            members = await asyncio.shield(reading.task)
            if members is None or (user_id is not None and user_id not in members.present):
                continue
        if is_second or not conversations.expired_since(conversation_id, reading.moment):
            return members
    return await in_db(_load, conversation_id, user_id)  # they are in neither, or a stranger began it


async def _was_known(conversation_id: UUID, user_id: UUID | None) -> bool:
    """Whether the user is or was in it; None is everybody."""
    last_known = conversations.stale(conversation_id)
    if user_id is None or (last_known is not None and user_id in last_known.present):
        return True
    return await in_db(_was_ever_in, conversation_id, user_id)


def _begin_to_read(conversation_id: UUID, user_id: UUID | None) -> _Reading:
    readings, moment = _readings(), conversations.moment

    async def read() -> Members | None:
        try:
            members = await in_db(_load, conversation_id, user_id)
        finally:
            del readings[conversation_id]
        if members is not None and not conversations.expired_since(conversation_id, moment):
            conversations.keep(conversation_id, members)
        return members

    reading = readings[conversation_id] = _Reading(moment, asyncio.create_task(read()))
    reading.task.add_done_callback(aio.retrieve)  # all who asked may have gone
    return reading


async def starts_of(user_id: UUID, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
    """The first message that this user may see, in each of these that they are in. Raises Unavailable."""
    found = {each: start for each in conversation_ids if (start := _remembered_start(user_id, each)) is not None}
    missing = [each for each in conversation_ids if each not in found]
    if not missing:
        return found
    moment = starts.moment
    stored = await in_db(_stored_starts, user_id, missing)
    for conversation_id, start in stored.items():
        if starts.expired_since(conversation_id, moment):
            continue
        if (of_some := starts.fresh(conversation_id)) is None:
            starts.keep(conversation_id, {user_id: start})
        else:
            of_some[user_id] = start
    return found | stored


def _remembered_start(user_id: UUID, conversation_id: UUID) -> int | None:
    members = conversations.fresh(conversation_id)
    if members is not None and user_id in members.present:
        return members.present[user_id].start_seq
    return (starts.fresh(conversation_id) or {}).get(user_id)


async def names(user_ids: Collection[UUID]) -> dict[UUID, Person]:
    """Those of these people who exist, and may have left a conversation long ago. Raises Unavailable."""
    found = {user_id: person for user_id in user_ids if (person := people.fresh(user_id)) is not None}
    missing = set(user_ids) - found.keys()
    if not missing:
        return found
    try:
        looked_up = await in_db(_people, missing)
    except Unavailable:
        last_known = {user_id: person for user_id in missing if (person := people.stale(user_id)) is not None}
        if len(last_known) < len(missing):
            raise
        return found | last_known
    for user_id, person in looked_up.items():
        people.keep(user_id, person)
    return found | looked_up


async def senders(user_ids: Collection[UUID]) -> dict[UUID, Person]:
    """
    The same for everyone who has sent something. Raises Unavailable.

    The history may know people whom the database does not, after that was restored from an older backup.
    """
    found = await names(user_ids)
    return {user_id: found.get(user_id) or Person(user_id, "unknown", "Unknown") for user_id in user_ids}


def expire(conversation_id: UUID) -> None:
    """Who is in it may have changed: look it up again."""
    conversations.expire(conversation_id)
    starts.expire(conversation_id)


def forget_all() -> None:
    """Something may have been missed: look everything up again."""
    conversations.expire_all()
    starts.expire_all()
    people.expire_all()


def _load(conversation_id: UUID, user_id: UUID | None) -> Members | None:
    conversation = Conversation.objects.filter(id=conversation_id)
    if user_id is not None:
        # The same single query for a conversation that does not exist and for one that the user was never in.
        conversation = conversation.filter(memberships__user_id=user_id)
    found = conversation.first()
    return None if found is None else snapshots([found])[0]


def _was_ever_in(conversation_id: UUID, user_id: UUID) -> bool:
    return Membership.objects.filter(conversation_id=conversation_id, user_id=user_id).exists()


def snapshots(conversations: Collection[Conversation]) -> list[Members]:
    """
    The members of many conversations, in two queries and one more for blocks between the two of a direct one.

    The conversations were read before their members: so these may be newer than their version says, never older.
    """
    present: dict[UUID, dict[UUID, Member]] = {each.id: {} for each in conversations}
    gone: dict[UUID, set[UUID]] = {each.id: set() for each in conversations}
    rows = Membership.objects.filter(conversation_id__in=list(present)).order_by("joined_at", "id")
    columns = ("conversation_id", "user_id", "user__username", "user__display_name", "role", "start_seq", "left_at")
    for conversation_id, user_id, username, display_name, role, start_seq, left_at in rows.values_list(*columns):
        if left_at is None:
            present[conversation_id][user_id] = Member(Person(user_id, username, display_name), role, start_seq)
        else:
            gone[conversation_id].add(user_id)
    pairs = {
        each.id: present[each.id].keys() | gone[each.id]
        for each in conversations
        if each.kind == Conversation.Kind.DIRECT
    }
    blocks = _blocks_among(set().union(*pairs.values())) if pairs else set()
    return [
        Members(
            conversation_id=each.id,
            kind=each.kind,
            title=each.title,
            present=present[each.id],
            gone=frozenset(gone[each.id]),
            blocked=frozenset(pairs.get(each.id, ())) in blocks,
            version=each.members_version,
        )
        for each in conversations
    ]


def _blocks_among(user_ids: Iterable[UUID]) -> set[frozenset[UUID]]:
    ids = list(user_ids)
    blocks = Block.objects.filter(Q(blocker_id__in=ids) & Q(blocked_id__in=ids))
    return {frozenset(pair) for pair in blocks.values_list("blocker_id", "blocked_id")}


def _stored_starts(user_id: UUID, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
    mine = Membership.objects.filter(user_id=user_id, left_at__isnull=True, conversation_id__in=conversation_ids)
    return dict(mine.values_list("conversation_id", "start_seq"))


def _people(user_ids: Collection[UUID]) -> dict[UUID, Person]:
    return {user.id: Person.of(user) for user in User.objects.filter(id__in=user_ids)}

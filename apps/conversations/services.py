"""
Everything that changes what is said or who hears it. Consumers, REST and pages call these; only these deliver.

Each raises errors from errors.py and nothing else for what a caller can do wrong.
"""

import logging
from collections.abc import Collection
from uuid import UUID, uuid4

import msgspec
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from redis.exceptions import RedisError

from apps import failpoints
from apps.accounts import services as accounts
from apps.accounts.models import Block, User
from apps.accounts.people import Person
from apps.conversations import delivery, memberships, reads, throttle
from apps.conversations.database import in_db
from apps.conversations.errors import BadFrame, Blocked, Forbidden, NotFound, Unavailable
from apps.conversations.history import log
from apps.conversations.history.base import MembersChanged
from apps.conversations.memberships import Members
from apps.conversations.messages import Draft, Kind, Message
from apps.conversations.models import Conversation, Membership
from apps.conversations.protocol import ConversationUpdated, MessageOut, encode, message_out
from apps.conversations.reads import ConversationWishes
from apps.presence import metrics
from apps.push import ledger

logger = logging.getLogger(__name__)

MAX_TITLE_CHARS = 80


# --- saying something ------------------------------------------------------------------------------------------------
async def send_message(draft: Draft) -> Message:
    """
    Store a message, then hand it to everyone in the conversation.

    Safe to repeat: the same client_msg_id gives the same message (`repeated` is set), it is delivered again, and
    receivers drop a seq they have. Raises RateLimited, NotFound, NotAMember, Blocked, Unavailable.
    """
    await throttle.take(throttle.sends(), str(draft.sender_id))
    members = await memberships.of(draft.conversation_id, draft.sender_id)
    failpoints.reached("checked")
    message, members = await _store(draft, members)
    await delivery.deliver(message, members)
    return message


async def _store(draft: Draft, members: Members) -> tuple[Message, Members]:
    """By the word of these members, or of newer ones if the log has heard of such: they are returned too."""
    while True:
        if draft.kind is Kind.TEXT:
            members.check_may_send(draft.sender_id)
        try:
            with metrics.store_seconds.time():
                message = await (await log()).append(draft, members.version)
        except MembersChanged as changed:
            members = await memberships.newer(draft.conversation_id, changed.version)
        else:
            metrics.stored.inc()
            return message, members


async def send_and_show(draft: Draft, sender: Person) -> tuple[Message, MessageOut]:
    """The same, and the message as clients see it."""
    message = await send_message(draft)
    return message, message_out(message, sender)


async def _say(actor: Person, conversation_id: UUID, text: str) -> None:
    """A system message: what `actor` did to the conversation. The change itself stands already."""
    draft = Draft(conversation_id, actor.id, uuid4(), text, Kind.SYSTEM)
    message, members = await _store(draft, await memberships.known(conversation_id))
    await delivery.deliver(message, members)


# --- conversations ---------------------------------------------------------------------------------------------------
async def direct_conversation(actor: Person, username: str) -> tuple[UUID, bool]:
    """The one direct conversation of the two, and whether it was made now. Raises NotFound, Forbidden, Blocked."""
    conversation_id, created = await in_db(_open_direct, actor, username)
    if created:
        await _tell_changed(conversation_id)
    return conversation_id, created


def _open_direct(actor: Person, username: str) -> tuple[UUID, bool]:
    other = _find(username)
    if other.id == actor.id:
        raise Forbidden("You cannot start a conversation with yourself.")
    key = Conversation.key_of_pair(actor.id, other.id)
    existing = Conversation.objects.filter(direct_key=key).first()
    if existing is not None:
        return existing.id, False
    _check_not_blocked(actor, other)
    with transaction.atomic():
        # Whoever loses the race for the unique key waits here for the winner's commit, and gets the winner's row.
        conversation, created = Conversation.objects.get_or_create(
            direct_key=key, defaults={"kind": Conversation.Kind.DIRECT}
        )
        if created:
            Membership.objects.bulk_create(
                Membership(conversation=conversation, user_id=user_id) for user_id in (actor.id, other.id)
            )
    return conversation.id, created


async def create_group(actor: Person, title: str, usernames: Collection[str]) -> UUID:
    """A group with its owner and first members. Raises BadFrame for its title, NotFound, Blocked."""
    title = _clean_title(title)
    await (await log()).ping()  # before the change: a history that is away cannot take the message about it
    conversation_id = await in_db(_create_group, actor, title, usernames)
    await _changed(actor, conversation_id, f"{actor.display_name} created the group “{title}”")
    return conversation_id


def _create_group(actor: Person, title: str, usernames: Collection[str]) -> UUID:
    others = {user.id: user for user in map(_find, usernames) if user.id != actor.id}
    for user in others.values():
        _check_not_blocked(actor, user)
    with transaction.atomic():
        conversation = Conversation.objects.create(kind=Conversation.Kind.GROUP, title=title)
        owner = Membership(conversation=conversation, user_id=actor.id, role=Membership.Role.OWNER)
        rest = [Membership(conversation=conversation, user_id=user_id) for user_id in others]
        Membership.objects.bulk_create([owner, *rest])
    return conversation.id


async def rename(actor: Person, conversation_id: UUID, title: str) -> None:
    title = _clean_title(title)
    members = await memberships.of(conversation_id, actor.id)
    members.check_may_manage(actor.id)
    if title == members.title:
        return
    await (await log()).ping()
    await in_db(Conversation.objects.filter(id=conversation_id).update, title=title)
    await _changed(actor, conversation_id, f"{actor.display_name} renamed the group to “{title}”")


async def add_member(actor: Person, conversation_id: UUID, username: str, role: str = Membership.Role.MEMBER) -> None:
    """Their view starts here. Adding someone who is in already changes nothing. Only the owner adds an admin."""
    members = await memberships.of(conversation_id, actor.id)
    members.check_may_manage(actor.id)
    if role != Membership.Role.MEMBER and members.get(actor.id).role != Membership.Role.OWNER:
        raise Forbidden("Only the owner may add an admin.")
    head = await _head(conversation_id)
    user = await in_db(_join, actor, conversation_id, username, role, head)
    if user is not None:
        await _changed(actor, conversation_id, f"{actor.display_name} added {user.display_name}")


def _join(actor: Person, conversation_id: UUID, username: str, role: str, head: int) -> User | None:
    user = _find(username)
    _check_not_blocked(actor, user)
    start = {"start_seq": head + 1, "last_read_seq": head, "role": role}
    with transaction.atomic():
        row, created = Membership.objects.get_or_create(conversation_id=conversation_id, user=user, defaults=start)
        if not created:
            back = {**start, "left_at": None, "joined_at": timezone.now()}
            if not Membership.objects.filter(id=row.id, left_at__isnull=False).update(**back):
                return None
        _count_change(conversation_id)
    return user


def _count_change(conversation_id: UUID) -> None:
    """In the transaction that changes who is present."""
    Conversation.objects.filter(id=conversation_id).update(members_version=F("members_version") + 1)


async def remove_member(actor: Person, conversation_id: UUID, username: str) -> None:
    """Removing oneself is leaving; an owner who leaves hands over to the longest-serving admin, else member."""
    members = await memberships.of(conversation_id, actor.id)
    target = _member_named(members, username)
    if target.person.id == actor.id:
        if members.kind == Conversation.Kind.DIRECT:
            raise Forbidden("A direct conversation cannot be left.")
        text = f"{actor.display_name} left"
    else:
        members.check_may_manage(actor.id)
        if target.role != Membership.Role.MEMBER and members.get(actor.id).role != Membership.Role.OWNER:
            raise Forbidden("Only the owner may remove an owner or admin.")
        text = f"{actor.display_name} removed {target.person.display_name}"
    await (await log()).ping()
    gone = await in_db(_leave, conversation_id, target.person.id)
    if gone:
        await _changed(actor, conversation_id, text)
        await _tell_removed(members, target.person)


def _leave(conversation_id: UUID, user_id: UUID) -> bool:
    with transaction.atomic():
        present = Membership.objects.select_for_update().filter(conversation_id=conversation_id, left_at__isnull=True)
        row = present.filter(user_id=user_id).first()
        if row is None:
            return False
        Membership.objects.filter(id=row.id).update(left_at=timezone.now(), role=Membership.Role.MEMBER)
        _count_change(conversation_id)
        if row.role == Membership.Role.OWNER:
            heirs = sorted(present, key=lambda heir: (heir.role != Membership.Role.ADMIN, heir.joined_at, heir.id))
            for heir in heirs[:1]:
                Membership.objects.filter(id=heir.id).update(role=Membership.Role.OWNER)
    return True


async def change_role(actor: Person, conversation_id: UUID, username: str, role: str) -> None:
    """The owner makes admins and members, or hands the group over (role "owner"), and is an admin then."""
    members = await memberships.of(conversation_id, actor.id)
    members.check_may_manage(actor.id)
    if members.get(actor.id).role != Membership.Role.OWNER:
        raise Forbidden("Only the owner may change roles.")
    target = _member_named(members, username)
    if target.person.id == actor.id or target.role == role:
        return
    await (await log()).ping()
    await in_db(_change_role, conversation_id, actor.id, target.person.id, role)
    said = "the owner" if role == Membership.Role.OWNER else f"{'an' if role == 'admin' else 'a'} {role}"
    await _changed(actor, conversation_id, f"{actor.display_name} made {target.person.display_name} {said}")


def _change_role(conversation_id: UUID, owner_id: UUID, user_id: UUID, role: str) -> None:
    rows = Membership.objects.filter(conversation_id=conversation_id, left_at__isnull=True)
    with transaction.atomic():
        if not rows.select_for_update().filter(user_id=owner_id, role=Membership.Role.OWNER).exists():
            raise Forbidden("Only the owner may change roles.")
        if role == Membership.Role.OWNER:
            rows.filter(user_id=owner_id).update(role=Membership.Role.ADMIN)
        rows.filter(user_id=user_id).update(role=role)


async def mark_read(actor: Person, conversation_id: UUID, seq: int) -> None:
    """Moves `last_read_seq` forward, never back nor past the newest message; the reader's other sockets are told."""
    members = await memberships.of(conversation_id, actor.id)
    seq = min(seq, await _head(conversation_id))
    if await in_db(_move_read, actor.id, conversation_id, seq):
        await _tell(members, [actor.id])


def _move_read(user_id: UUID, conversation_id: UUID, seq: int) -> bool:
    mine = Membership.objects.filter(conversation_id=conversation_id, user_id=user_id, left_at__isnull=True)
    moved = bool(mine.filter(last_read_seq__lt=seq).update(last_read_seq=seq))
    if moved:
        ledger.plan_clear(user_id, conversation_id, seq, timezone.now())
    return moved


async def want_notifications(actor: Person, conversation_id: UUID, wanted: ConversationWishes) -> None:
    """How this member wants to be told by pushes of what is said here. Raises NotFound, NotAMember, Unavailable."""
    await memberships.of(conversation_id, actor.id)
    mine = Membership.objects.filter(conversation_id=conversation_id, user_id=actor.id, left_at__isnull=True)
    await in_db(mine.update, **msgspec.structs.asdict(wanted))


# --- people ----------------------------------------------------------------------------------------------------------
async def block(actor: Person, username: str) -> None:
    """Raises NotFound, Forbidden."""
    if username.strip().lower() == actor.username:
        raise Forbidden("You cannot block yourself.")
    await in_db(lambda: accounts.block(actor.id, _find(username).id))
    await _direct_changed(actor, username)


async def unblock(actor: Person, username: str) -> None:
    await in_db(lambda: accounts.unblock(actor.id, _find(username).id))
    await _direct_changed(actor, username)


async def _direct_changed(actor: Person, username: str) -> None:
    def direct() -> UUID | None:
        key = Conversation.key_of_pair(actor.id, _find(username).id)
        return Conversation.objects.filter(direct_key=key).values_list("id", flat=True).first()

    conversation_id = await in_db(direct)
    if conversation_id is not None:
        await _forget_members(conversation_id)


# --- telling people about a conversation -----------------------------------------------------------------------------
async def _changed(actor: Person, conversation_id: UUID, text: str) -> None:
    """The change stands, so what cannot be told now must not refuse it: whoever missed it will look."""
    await _forget_members(conversation_id)
    try:
        await _say(actor, conversation_id, text)
        await _tell_changed(conversation_id)
    except Unavailable as error:
        logger.warning("not everyone was told of a change: %s", error, extra={"conversation_id": str(conversation_id)})


async def _forget_members(conversation_id: UUID) -> None:
    try:
        await delivery.members_changed(conversation_id)
    except (RedisError, OSError) as error:
        logger.warning("other nodes learn of a membership change late: %s", error)


async def _tell_changed(conversation_id: UUID) -> None:
    members = await memberships.known(conversation_id)
    await _tell(members, members.present)


async def _tell(members: Members, user_ids: Collection[UUID]) -> None:
    """`conversation.updated` for each of these members, as each of them sees it."""
    for user_id, out in (await reads.conversation_for(members, user_ids)).items():
        await delivery.to_users([user_id], encode(ConversationUpdated(out)))


async def _tell_removed(members: Members, person: Person) -> None:
    try:
        out = (await reads.conversation_for(members, [person.id]))[person.id]
        bare = msgspec.structs.replace(out, members=[], last_message=None, unread_count=0)
        await delivery.to_users([person.id], encode(ConversationUpdated(bare, removed=True)))
    except Unavailable as error:
        logger.warning("who was removed was not told: %s", error, extra={"user_id": str(person.id)})


# --- small checks ----------------------------------------------------------------------------------------------------
async def _head(conversation_id: UUID) -> int:
    newest = (await (await log()).latest([conversation_id])).get(conversation_id)
    return 0 if newest is None else newest.seq


def _find(username: str) -> User:
    name = username.strip().lower()
    # PostgreSQL cannot be asked for a NUL.
    user = None if "\0" in name else User.objects.filter(username=name, is_active=True).first()
    if user is None:
        raise NotFound(f"There is nobody called {username.strip()[:40]!r}.")
    return user


def _check_not_blocked(actor: Person, other: User) -> None:
    pairs = [(actor.id, other.id), (other.id, actor.id)]
    if any(Block.objects.filter(blocker_id=one, blocked_id=two).exists() for one, two in pairs):
        raise Blocked(f"You and {other.display_name} have a block between you.")


def _member_named(members: Members, username: str) -> memberships.Member:
    for member in members.present.values():
        if member.person.username == username.strip().lower():
            return member
    raise NotFound(f"There is nobody called {username.strip()[:40]!r} in this conversation.")


def _clean_title(title: str) -> str:
    title = " ".join(title.split())
    if not title or len(title) > MAX_TITLE_CHARS or not title.isprintable():
        raise BadFrame(f"A group has a title of 1 to {MAX_TITLE_CHARS} printable characters.", pointer="/title")
    return title

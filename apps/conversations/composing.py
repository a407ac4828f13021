"""
What pushes say, when they go out: by the history, the settings and the memberships of that moment.

So no text waits with the broker or stands in the ledger. Many pushes are composed at once, from facts that are read
for all of them; each by itself, so that what is missing for one holds up no other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Collection, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import TypeVar
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import Error
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import User
from apps.conversations import notify, reads
from apps.conversations.background import background
from apps.conversations.errors import Unavailable
from apps.conversations.history import log
from apps.conversations.messages import Message
from apps.conversations.models import Conversation, Membership
from apps.push import ledger, policy
from apps.push.ledger import Attempt, Settlement
from apps.push.models import PushRecord
from apps.push.notification import Push

logger = logging.getLogger(__name__)

T = TypeVar("T")
READ_WITHIN_S = 6  # a read of the history, whatever its own deadlines are; three in a row fit into ledger.MAY_COMPOSE

Place = tuple[UUID, int]  # of a message: conversation and seq
Newest = Mapping[UUID, Message]  # the last message of each conversation
Composed = tuple[list[tuple[Attempt, Push]], list[Settlement]]


class NotNeeded(Exception):
    """What a push would tell of has been read, muted or left meanwhile; the text says which."""


def compose(attempts: Collection[Attempt]) -> Composed:
    """
    What is to be sent, and what becomes of those of which nothing is.

    Where what is known of all can not be read, each is composed alone: it may be for one of them. Raises the
    database's errors, which are all of theirs.
    """
    try:
        facts = _facts(attempts)
    except Error:
        raise
    except TimeoutError as error:  # all that is asked has a deadline of its own: this worker is overloaded
        logger.warning("pushes could not be composed in time: %r", error, extra={"pushes": len(attempts)})
        now = timezone.now()
        return [], [ledger.released(attempt, "what it says was not known in time", now) for attempt in attempts]
    except Exception as error:  # noqa: BLE001  (the outermost loop of a push: a bug is this one's alone)
        if len(attempts) > 1:
            logger.warning("pushes are composed one by one: %r", error, extra={"pushes": len(attempts)})
            return _each_alone(attempts)
        return [], [_broken(attempt, error) for attempt in attempts]
    return _composed(attempts, facts)


def _each_alone(attempts: Collection[Attempt]) -> Composed:
    pushes, settled = [], []
    for attempt in attempts:
        if attempt.is_late_to_compose(now := timezone.now()):
            settled.append(ledger.released(attempt, "no time was left to compose it", now))
            continue
        its_push, its_settlement = compose([attempt])
        pushes += its_push
        settled += its_settlement
    return pushes, settled


def _composed(attempts: Collection[Attempt], facts: "_Facts") -> Composed:
    pushes, settled, now = [], [], timezone.now()
    for attempt in attempts:
        try:
            pushes.append((attempt, _push(attempt, facts, now)))
        except NotNeeded as reason:
            settled.append(ledger.withdrawn(attempt, str(reason), now))
        except Unavailable as error:
            settled.append(ledger.released(attempt, str(error), now))
        except Exception as error:  # noqa: BLE001  (as in compose)
            settled.append(_broken(attempt, error))
    return pushes, settled


def _broken(attempt: Attempt, error: Exception) -> Settlement:
    logger.error("a push could not be composed", exc_info=error, extra={"push_id": str(attempt.id)})
    return ledger.broken(attempt, f"could not be composed: {type(error).__name__}", timezone.now())


# --- one push --------------------------------------------------------------------------------------------------------
class _Facts(msgspec.Struct, frozen=True):
    """What is known for some pushes. What could not be read stands there as the error."""

    standings: Mapping[UUID, Mapping[UUID, notify.Standing]]  # by user and conversation
    newest: Mapping[UUID, Newest | Unavailable]  # by user, of all their conversations
    messages: Mapping[Place, Message | Unavailable | None]
    known: notify.Known
    senders: Mapping[UUID, str]  # their names
    titles: Mapping[UUID, str]  # by conversation

    def unread_total(self, user_id: UUID) -> int:
        """Raises Unavailable."""
        newest = _there(self.newest[user_id])
        return sum(
            reads.unread(user_id, standing.start_seq, standing.last_read_seq, newest.get(conversation_id))
            for conversation_id, standing in self.standings[user_id].items()
            if standing.left_at is None
        )


def _there(value: T | Unavailable) -> T:
    """Raises Unavailable."""
    if isinstance(value, Unavailable):
        raise value
    return value


def _push(attempt: Attempt, facts: _Facts, now: datetime) -> Push:
    """Raises NotNeeded, Unavailable."""
    if attempt.device_id is None:
        raise NotNeeded("the device is gone")
    is_clear = attempt.kind == PushRecord.Kind.CLEAR
    title, body = ("", "") if is_clear else _words(attempt, facts, now)
    return Push(
        push_id=attempt.id,
        kind="clear" if is_clear else "message",
        conversation_id=attempt.conversation_id,
        seq=attempt.seq,
        title=title,
        body=body,
        path=_page().format(attempt.conversation_id),
        badge=facts.unread_total(attempt.user_id),
        count=attempt.count,
        expires_at=attempt.expires_at,
    )


@cache
def _page() -> str:
    """The address of a conversation's page, with {} for its id: to look it up takes longer than all the rest."""
    nobodys = UUID(int=0)
    return reverse("conversation", args=[nobodys]).replace(str(nobodys), "{}")


def _words(attempt: Attempt, facts: _Facts, now: datetime) -> tuple[str, str]:
    standing = facts.standings[attempt.user_id].get(attempt.conversation_id)
    message = _there(facts.messages[attempt.conversation_id, attempt.seq])
    if standing is None or message is None:
        raise NotNeeded(policy.Silence.GONE)
    recipient = facts.known.recipient(standing, message.sender_id)
    reason = policy.silence(notify.news_of(message), recipient, now)
    if reason not in (None, policy.Silence.NOT_MENTIONED):  # for that, an earlier message of the burst may have counted
        raise NotNeeded(reason)
    said = policy.Facts(
        sender_name=facts.senders.get(message.sender_id, "Unknown"),
        group_title=facts.titles[attempt.conversation_id],
        content=message.content,
        count=attempt.count,
    )
    return policy.words(policy.least(recipient.content, settings.PUSH_CONTENT), said)


# --- what is known ---------------------------------------------------------------------------------------------------
def _facts(attempts: Collection[Attempt]) -> _Facts:
    user_ids = {attempt.user_id for attempt in attempts}
    telling = [attempt for attempt in attempts if attempt.kind == PushRecord.Kind.MESSAGE]
    standings: dict[UUID, dict[UUID, notify.Standing]] = {user_id: {} for user_id in user_ids}
    for standing in notify.standings(Membership.objects.filter(user_id__in=user_ids)):
        standings[standing.user_id][standing.conversation_id] = standing
    newest, messages = background.run(_history(telling, standings))
    senders = {message.sender_id for message in messages.values() if isinstance(message, Message)}
    conversation_ids = {conversation_id for conversation_id, _ in messages}
    return _Facts(
        standings=standings,
        newest=newest,
        messages=messages,
        known=notify.known(user_ids, senders),
        senders=dict(User.objects.filter(id__in=senders).values_list("id", "display_name")),
        titles=dict(Conversation.objects.filter(id__in=conversation_ids).values_list("id", "title")),
    )


async def _history(
    attempts: Collection[Attempt], standings: Mapping[UUID, Mapping[UUID, notify.Standing]]
) -> tuple[dict[UUID, Newest | Unavailable], dict[Place, Message | Unavailable | None]]:
    newest = await _newest({user_id: _joined(each.values()) for user_id, each in standings.items()})
    messages: dict[Place, Message | Unavailable | None] = {}
    away: dict[Place, Unavailable] = {}
    older: set[Place] = set()
    for attempt in attempts:
        place, of_user = (attempt.conversation_id, attempt.seq), newest[attempt.user_id]
        if isinstance(of_user, Unavailable):
            away[place] = of_user  # asked for twice by now, with all else of this user
        elif (last := of_user.get(attempt.conversation_id)) is not None and last.seq == attempt.seq:
            messages[place] = last  # as it is for most of them
        else:
            older.add(place)
    older -= messages.keys()
    found = await asyncio.gather(*(_or_unavailable(_message(*place)) for place in older))
    return newest, away | messages | dict(zip(older, found, strict=True))


def _joined(standings: Iterable[notify.Standing]) -> list[UUID]:
    return [standing.conversation_id for standing in standings if standing.left_at is None]


async def _newest(conversation_ids: Mapping[UUID, list[UUID]]) -> dict[UUID, Newest | Unavailable]:
    """By user. Asked for all at once; where that fails for each alone, as only a part of the store may be away."""
    union = {conversation_id for ids in conversation_ids.values() for conversation_id in ids}
    together = await _or_unavailable(_latest(union))
    if not isinstance(together, Unavailable):
        return dict.fromkeys(conversation_ids, together)
    alone = await asyncio.gather(*(_or_unavailable(_latest(ids)) for ids in conversation_ids.values()))
    return dict(zip(conversation_ids, alone, strict=True))


async def _latest(conversation_ids: Collection[UUID]) -> Newest:
    return await (await log()).latest(conversation_ids)


async def _message(conversation_id: UUID, seq: int) -> Message | None:
    found = await (await log()).after(conversation_id, seq - 1, 1)
    return found[0] if found and found[0].seq == seq else None


async def _or_unavailable(answer: Awaitable[T]) -> T | Unavailable:
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            return await answer
    except Unavailable as error:
        return error
    except TimeoutError:
        return Unavailable("the history has not answered in time")

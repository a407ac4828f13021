"""
From a message to the pushes that tell of it: what is known of those who may have to be told.

Who is told, when and how is decided in push/policy.py; what a push says, when it goes out, in composing.py.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from redis.exceptions import RedisError

from apps.accounts.models import Block
from apps.conversations.background import background
from apps.conversations.history import log
from apps.conversations.messages import Kind, Message
from apps.conversations.models import Membership
from apps.presence import node
from apps.presence.status import OFFLINE_AFTER_S
from apps.push import ledger, metrics, policy
from apps.push.models import Device, NotificationSettings
from apps.push.policy import News, Notice, QuietHours, Recipient
from apps.push.wishes import Wishes, of_row

logger = logging.getLogger(__name__)

MEMBERS_AT_ONCE = 500
DEVICES_AT_ONCE = 500  # written in one transaction, which on SQLite everybody else waits for


def news_of(message: Message) -> News:
    return News(
        conversation_id=message.conversation_id,
        seq=message.seq,
        sender_id=message.sender_id,
        client_msg_id=message.client_msg_id,
        mentions=policy.mentions_in(message.content),
    )


# --- who -------------------------------------------------------------------------------------------------------------
class Standing(msgspec.Struct, frozen=True):
    """A person's place in a conversation, as far as pushes go."""

    row_id: int
    user_id: UUID
    username: str
    conversation_id: UUID
    start_seq: int
    last_read_seq: int
    left_at: datetime | None
    is_active: bool  # the account
    muted_until: datetime | None
    mentions_only: bool


def standings(rows: QuerySet[Membership]) -> list[Standing]:
    found = rows.values_list(
        "id", "user_id", "user__username", "conversation_id", "start_seq", "last_read_seq", "left_at",
        "user__is_active", "muted_until", "mentions_only",
    )  # fmt: skip
    return [Standing(*row) for row in found]


class Known(msgspec.Struct, frozen=True):
    """What else is known of some people now."""

    wishes: Mapping[UUID, Wishes]
    blocks: Collection[tuple[UUID, UUID]]  # who has blocked whom
    attentive: Collection[UUID]

    def recipient(self, standing: Standing, sender_id: UUID) -> Recipient:
        wishes = self.wishes.get(standing.user_id, Wishes())
        return Recipient(
            user_id=standing.user_id,
            username=standing.username,
            start_seq=standing.start_seq,
            last_read_seq=standing.last_read_seq,
            gone=standing.left_at is not None or not standing.is_active,
            blocked_sender=(standing.user_id, sender_id) in self.blocks,
            muted_until=standing.muted_until,
            mentions_only=standing.mentions_only,
            quiet_hours=_quiet_hours(wishes),
            content=wishes.content,
            attentive=standing.user_id in self.attentive,
        )


def known(user_ids: Collection[UUID], sender_ids: Collection[UUID]) -> Known:
    """Of these people, and how they stand to these senders."""
    blocks = Block.objects.filter(blocker_id__in=user_ids, blocked_id__in=sender_ids)
    return Known(
        wishes={row.user_id: of_row(row) for row in NotificationSettings.objects.filter(user_id__in=user_ids)},
        blocks=set(blocks.values_list("blocker_id", "blocked_id")),
        attentive=_attentive(user_ids),
    )


def _quiet_hours(wishes: Wishes) -> QuietHours | None:
    if wishes.quiet_from is None or wishes.quiet_until is None:
        return None
    return QuietHours(wishes.quiet_from, wishes.quiet_until, wishes.time_zone)


def _attentive(user_ids: Collection[UUID]) -> set[UUID]:
    async def ask() -> set[UUID]:
        return await node.current().registry.attentive(user_ids)

    try:
        return background.run(ask())
    except RedisError as error:
        logger.warning("nobody counts as present, as Redis is away: %s", error)
        return set()  # one push too many is better than one too few


def notify_each(notices: Collection[Notice], now: datetime) -> int:
    """Plan the pushes of each; how many. Who has a device at all is asked for all of them: most people have none."""
    told = {notice.news.conversation_id for notice in notices if notice.user_ids is not None}
    reachable = set(_with_a_device(told).values_list("user_id", flat=True).distinct())
    planned = 0
    for notice in notices:
        if notice.user_ids is None:
            planned += notify(notice.news, None, now)
        elif some := reachable.intersection(notice.user_ids):
            planned += notify(notice.news, some, now)
    return planned


def notify(news: News, user_ids: Collection[UUID] | None, now: datetime) -> int:
    """Plan a push to every device of those of these people (None: of all members) who have to be told; how many."""
    planned = 0
    for members in _unread_members(news, user_ids):
        facts = known([member.user_id for member in members], [news.sender_id])
        tell = set()
        for member in members:
            reason = policy.silence(news, facts.recipient(member, news.sender_id), now)
            if reason is None:
                tell.add(member.user_id)
            else:
                metrics.silences.labels(reason).inc()
        devices = list(Device.objects.filter(user_id__in=tell).values_list("id", flat=True))
        for start in range(0, len(devices), DEVICES_AT_ONCE):
            ledger.plan(news, devices[start : start + DEVICES_AT_ONCE], now)
        planned += len(devices)
    return planned


def _with_a_device(conversation_ids: Collection[UUID]) -> QuerySet[Membership]:
    """Who is in these conversations and can be told of anything at all."""
    members = Membership.objects.filter(conversation_id__in=conversation_ids, left_at__isnull=True)
    return members.filter(Exists(Device.objects.filter(user=OuterRef("user"))))


def _unread_members(news: News, user_ids: Collection[UUID] | None) -> Iterator[list[Standing]]:
    """Those with a device who have not read it, some hundred at a time."""
    found = (
        _with_a_device([news.conversation_id])
        .filter(start_seq__lte=news.seq, last_read_seq__lt=news.seq, user__is_active=True)
        .exclude(user_id=news.sender_id)
        .order_by("id")
    )
    if user_ids is not None:
        found = found.filter(user_id__in=user_ids)
    members = standings(found[:MEMBERS_AT_ONCE])
    while members:
        yield members
        members = standings(found.filter(id__gt=members[-1].row_id)[:MEMBERS_AT_ONCE])


# --- whoever was missed ----------------------------------------------------------------------------------------------
SWEEP_AFTER = timedelta(seconds=OFFLINE_AFTER_S + 5)  # by then a dead connection is known to be one
SWEPT_AT_ONCE = 1_000
SWEPT_MESSAGES = 10


def sweep(now: datetime) -> None:
    """
    Compare what should have been pushed with the ledger, in each conversation that had a message a minute ago or more.

    That finds whoever counted as present when it came, but was not, or has not come back to read it since. Raises
    Unavailable, RedisError.
    """
    recent = background.run(_recent(now - SWEEP_AFTER))
    for conversation_id in _reaching_anybody(recent):
        newest_first = background.run(_newest(conversation_id))[::-1]
        texts = [message for message in newest_first if message.kind is Kind.TEXT]
        for message in texts:  # who is told of a newer one is not told of those before
            if message.sent_at > now - policy.LIFETIME:
                notify(news_of(message), None, now)
    # Until then, somebody may still turn out to be away.
    background.run(_forget(recent, now - SWEEP_AFTER - timedelta(seconds=settings.PUSH_AWAY_AFTER)))


def _reaching_anybody(conversation_ids: Sequence[UUID]) -> list[UUID]:
    """Those of them, in their order, with a member who has a device at all."""
    reachable = set(_with_a_device(conversation_ids).values_list("conversation_id", flat=True).distinct())
    return [each for each in conversation_ids if each in reachable]


async def _recent(moment: datetime) -> list[UUID]:
    return await node.current().registry.recent.until(moment.timestamp(), SWEPT_AT_ONCE)


async def _forget(conversation_ids: Collection[UUID], moment: datetime) -> None:
    await node.current().registry.recent.forget(conversation_ids, moment.timestamp())


async def _newest(conversation_id: UUID) -> list[Message]:
    return await (await log()).before(conversation_id, None, SWEPT_MESSAGES)

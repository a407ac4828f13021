"""
From a message to the pushes that tell of it: what is known of those who may have to be told, and what there is to say.

Who is told, when and how is decided in push/policy.py. Text comes from the history when a push goes out, so that none
waits with the broker or stands in the ledger, and what is said is what the settings allow at that time.
"""

import logging
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Exists, OuterRef
from django.urls import reverse
from redis.exceptions import RedisError

from apps.accounts.models import Block, User
from apps.conversations import reads
from apps.conversations.background import background
from apps.conversations.history import log
from apps.conversations.messages import Kind, Message
from apps.conversations.models import Membership
from apps.presence import node
from apps.presence.status import OFFLINE_AFTER_S
from apps.push import ledger, metrics, policy
from apps.push.models import Device, NotificationSettings, PushRecord
from apps.push.notification import Push
from apps.push.policy import News, QuietHours, Recipient
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
def notify(news: News, user_ids: Collection[UUID] | None, now: datetime) -> None:
    """Plan a push to every device of those of these people (None: of all members) who have to be told."""
    for rows in _unread_members(news, user_ids):
        tell = set()
        for recipient in _recipients(news, rows):
            reason = policy.silence(news, recipient, now)
            if reason is None:
                tell.add(recipient.user_id)
            else:
                metrics.silences.labels(reason).inc()
        devices = list(Device.objects.filter(user_id__in=tell).values_list("id", flat=True))
        for start in range(0, len(devices), DEVICES_AT_ONCE):
            ledger.plan(news, devices[start : start + DEVICES_AT_ONCE], now)


def _unread_members(news: News, user_ids: Collection[UUID] | None) -> Iterator[list[Membership]]:
    """Those with a device who have not read it, some hundred at a time."""
    found = (
        Membership.objects.filter(
            Exists(Device.objects.filter(user=OuterRef("user"))),
            conversation_id=news.conversation_id,
            left_at__isnull=True,
            start_seq__lte=news.seq,
            last_read_seq__lt=news.seq,
            user__is_active=True,
        )
        .exclude(user_id=news.sender_id)
        .select_related("user")
        .order_by("id")
    )
    if user_ids is not None:
        found = found.filter(user_id__in=user_ids)
    rows = list(found[:MEMBERS_AT_ONCE])
    while rows:
        yield rows
        rows = list(found.filter(id__gt=rows[-1].id)[:MEMBERS_AT_ONCE])


def _recipients(news: News, rows: Collection[Membership]) -> list[Recipient]:
    ids = [row.user_id for row in rows]
    wishes = {row.user_id: of_row(row) for row in NotificationSettings.objects.filter(user_id__in=ids)}
    blocks = Block.objects.filter(blocker_id__in=ids, blocked_id=news.sender_id)
    blocking = set(blocks.values_list("blocker_id", flat=True))
    attentive = _attentive(ids)
    return [
        Recipient(
            user_id=row.user_id,
            username=row.user.username,
            start_seq=row.start_seq,
            last_read_seq=row.last_read_seq,
            gone=row.left_at is not None or not row.user.is_active,
            blocked_sender=row.user_id in blocking,
            muted_until=row.muted_until,
            mentions_only=row.mentions_only,
            quiet_hours=_quiet_hours(wishes.get(row.user_id, Wishes())),
            content=wishes.get(row.user_id, Wishes()).content,
            attentive=row.user_id in attentive,
        )
        for row in rows
    ]


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


# --- what ------------------------------------------------------------------------------------------------------------
class NotNeeded(Exception):
    """What a push would tell of has been read, muted or left meanwhile; the text says which."""


def compose(record: PushRecord, now: datetime) -> Push:
    """What this push says now. Raises NotNeeded, Unavailable."""
    title, body = _words(record, now) if record.kind == PushRecord.Kind.MESSAGE else ("", "")
    return Push(
        push_id=record.id,
        kind="clear" if record.kind == PushRecord.Kind.CLEAR else "message",
        conversation_id=record.conversation_id,
        seq=record.seq,
        title=title,
        body=body,
        path=reverse("conversation", args=[record.conversation_id]),
        badge=background.run(reads.unread_total(record.user_id)),
        count=record.count,
        expires_at=record.expires_at,
    )


def _words(record: PushRecord, now: datetime) -> tuple[str, str]:
    rows = Membership.objects.select_related("user", "conversation")
    row = rows.filter(conversation_id=record.conversation_id, user_id=record.user_id).first()
    message = background.run(_message(record.conversation_id, record.seq))
    if row is None or message is None:
        raise NotNeeded(policy.Silence.GONE)
    news = news_of(message)
    (recipient,) = _recipients(news, [row])
    reason = policy.silence(news, recipient, now)
    if reason not in (None, policy.Silence.NOT_MENTIONED):  # for that, an earlier message of the burst may have counted
        raise NotNeeded(reason)
    sender = User.objects.filter(id=message.sender_id).first()
    facts = policy.Facts(
        sender_name="Unknown" if sender is None else sender.display_name,
        group_title=row.conversation.title,
        content=message.content,
        count=record.count,
    )
    return policy.words(policy.least(recipient.content, settings.PUSH_CONTENT), facts)


async def _message(conversation_id: UUID, seq: int) -> Message | None:
    found = await (await log()).after(conversation_id, seq - 1, 1)
    return found[0] if found and found[0].seq == seq else None


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
    for conversation_id in recent:
        newest_first = background.run(_newest(conversation_id))[::-1]
        texts = [message for message in newest_first if message.kind is Kind.TEXT]
        for message in texts:  # who is told of a newer one is not told of those before
            if message.sent_at > now - policy.LIFETIME:
                notify(news_of(message), None, now)
    # Until then, somebody may still turn out to be away.
    background.run(_forget(recent, now - SWEEP_AFTER - timedelta(seconds=settings.PUSH_AWAY_AFTER)))


async def _recent(moment: datetime) -> list[UUID]:
    return await node.current().registry.recent.until(moment.timestamp(), SWEPT_AT_ONCE)


async def _forget(conversation_ids: Collection[UUID], moment: datetime) -> None:
    await node.current().registry.recent.forget(conversation_ids, moment.timestamp())


async def _newest(conversation_id: UUID) -> list[Message]:
    return await (await log()).before(conversation_id, None, SWEPT_MESSAGES)

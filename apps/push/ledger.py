"""
What becomes of each push, written down at each step, and taken up again where a step was not finished.

A push is planned (or joins one that waits for the same device and conversation), handed to the broker when it is due,
claimed by one worker, and settled by what the provider answered. A row that was handed over or claimed and not settled
in time is due again: whoever had it is gone. So a push may go out twice, and never not at all.

From where it is due on, pushes share their SQL: a worker claims and settles many at once, each with its own outcome.
"""

import random
from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.models import F, Max, QuerySet

from apps.push import metrics, policy
from apps.push.models import Device, PushRecord
from apps.push.policy import News
from apps.push.providers.base import Outcome, Result

Kind, State = PushRecord.Kind, PushRecord.State

KEPT = timedelta(days=7)
MAX_QUEUED = 5_000  # pushes whose tasks are with the broker; what is due besides them waits here
TAKEN_FOR_LOST = timedelta(minutes=1)  # a task that no worker has begun
MAY_COMPOSE = timedelta(seconds=20)  # from the claim until it is known what a push says
MAY_WAIT = timedelta(seconds=10)  # and then until it is handed to its provider
UNDER_WAY = MAY_COMPOSE + MAY_WAIT + timedelta(seconds=15)  # and as long as a provider takes at most
CLAIM = timedelta(minutes=1)  # longer than that
PAUSE = timedelta(seconds=10)  # before one that could not be tried is tried again
BROKEN_PAUSE = timedelta(minutes=5)  # before one that a bug keeps from being tried is: each time is a trace in the log
CHANGED_AT_ONCE = PURGED_AT_ONCE = 5_000
WORDS_CHARS = 200  # as much as a row takes of an error or of a provider's name for a push


class Attempt(msgspec.Struct, frozen=True):
    """One try of a push, for the worker that has claimed it. `device_id` is None when the device is gone."""

    id: UUID
    kind: str
    user_id: UUID
    username: str
    device_id: UUID | None
    token: str | None
    platform: str
    conversation_id: UUID
    seq: int
    count: int
    number: int  # 1 for the first
    expires_at: datetime
    claimed_at: datetime  # the same for all that were claimed together; no other claim of this push has it

    def is_late(self, now: datetime) -> bool:
        """It must not be handed to a provider any more: somebody may count on it having arrived by then, or not."""
        return now > self.claimed_at + MAY_COMPOSE + MAY_WAIT

    def is_late_to_compose(self, now: datetime) -> bool:
        return now > self.claimed_at + MAY_COMPOSE

    def is_nearly_lost(self, now: datetime) -> bool:
        """Another worker may claim it soon, and what this one has to say of it then counts no more."""
        return now > self.claimed_at + CLAIM - timedelta(seconds=5)


class Settlement(msgspec.Struct, frozen=True):
    """What an attempt came to."""

    attempt: Attempt
    state: PushRecord.State
    at: datetime  # due then when it waits, else done then
    error: str = ""
    provider: str = ""
    provider_id: str = ""
    is_try: bool = True  # its provider may have been asked: that counts as one of the push's attempts


# --- planning --------------------------------------------------------------------------------------------------------
def plan(news: News, device_ids: Collection[UUID], now: datetime) -> None:
    """Have these devices told of a message, but for those that were, or will be, told of it or a newer one."""
    with transaction.atomic():
        # Locked, so that one after the other plans for a device.
        devices = list(Device.objects.select_for_update().filter(id__in=device_ids).order_by("id"))
        of_these = PushRecord.objects.filter(device__in=devices, conversation_id=news.conversation_id)
        _locked(of_these.filter(state__in=PushRecord.JOINABLE))
        told = of_these.filter(kind=Kind.MESSAGE).exclude(state=State.WITHDRAWN)
        covered = set(told.filter(seq__gte=news.seq).values_list("device_id", flat=True))
        left = [device for device in devices if device.id not in covered]
        joined = _join(told.filter(device__in=left), news, now)
        tried = dict(
            told.filter(device__in=left, tried_at__gt=now - policy.BURST)
            .values_list("device_id")
            .annotate(Max("tried_at"))
        )
        clears = of_these.filter(device__in=left, kind=Kind.CLEAR)
        clearing = dict(clears.filter(state=State.SENDING).values_list("device_id").annotate(Max("tried_at")))
        PushRecord.objects.bulk_create(
            _record(news, device, _due(tried.get(device.id), clearing.get(device.id), now), now)
            for device in left
            if device.id not in joined
        )
        _withdraw(clears, now)


def _due(told_at: datetime | None, clearing_since: datetime | None, now: datetime) -> datetime:
    due_at = policy.due_after_burst(told_at, now)
    # Not before a clear that is just being sent has arrived: it would take away what is newer than it.
    return due_at if clearing_since is None else max(due_at, clearing_since + UNDER_WAY)


def _join(told: QuerySet[PushRecord], news: News, now: datetime) -> set[UUID]:
    joined = set()
    for record in told.filter(state__in=PushRecord.JOINABLE):
        still_waits = PushRecord.objects.filter(id=record.id, state__in=PushRecord.JOINABLE)
        if still_waits.update(
            seq=news.seq,
            count=F("count") + 1,
            client_msg_id=news.client_msg_id,
            expires_at=now + policy.LIFETIME,
        ):
            joined.add(record.device_id)
    return joined


def _record(news: News, device: Device, due_at: datetime, now: datetime) -> PushRecord:
    return PushRecord(
        kind=Kind.MESSAGE,
        user_id=device.user_id,
        device=device,
        platform=device.platform,
        conversation_id=news.conversation_id,
        first_seq=news.seq,
        seq=news.seq,
        client_msg_id=news.client_msg_id,
        created_at=now,
        due_at=due_at,
        expires_at=now + policy.LIFETIME,
    )


# --- reading ---------------------------------------------------------------------------------------------------------
def to_clear(user_id: UUID, conversation_id: UUID, seq: int) -> QuerySet[PushRecord]:
    """What tells this user of messages up to `seq`, and should not any more once they are read."""
    return PushRecord.objects.filter(
        user_id=user_id,
        conversation_id=conversation_id,
        kind=Kind.MESSAGE,
        cleared_at__isnull=True,
        seq__lte=seq,
        state__in=[*PushRecord.OPEN, State.SENT],
    )


def plan_clear(user_id: UUID, conversation_id: UUID, seq: int, now: datetime) -> None:
    """This user has read up to `seq`: withdraw what has not gone out, and have taken away what may have."""
    records = list(to_clear(user_id, conversation_id, seq))
    if not records:
        return
    ids = [record.id for record in records]
    may_show = {record.device_id for record in records if record.attempts or record.state not in PushRecord.JOINABLE}
    with transaction.atomic():
        _locked(PushRecord.objects.filter(id__in=ids))
        _withdraw(PushRecord.objects.filter(id__in=ids), now)
        PushRecord.objects.filter(id__in=ids).update(cleared_at=now)
        devices = Device.objects.filter(id__in=may_show)
        # Not before what is just being sent has arrived: it would stay.
        due_at = now + UNDER_WAY if any(record.state == State.SENDING for record in records) else now
        PushRecord.objects.bulk_create(_clear(device, conversation_id, seq, due_at, now) for device in devices)


def _clear(device: Device, conversation_id: UUID, seq: int, due_at: datetime, now: datetime) -> PushRecord:
    return PushRecord(
        kind=Kind.CLEAR,
        user_id=device.user_id,
        device=device,
        platform=device.platform,
        conversation_id=conversation_id,
        first_seq=seq,
        seq=seq,
        count=0,
        created_at=now,
        due_at=due_at,
        expires_at=now + policy.LIFETIME,
    )


def _withdraw(records: QuerySet[PushRecord], now: datetime) -> None:
    records.filter(state__in=PushRecord.JOINABLE).update(state=State.WITHDRAWN, done_at=now)


def _locked(records: QuerySet[PushRecord], at_most: int | None = None) -> list[UUID]:
    """For the rest of the transaction. Whoever changes several rows takes this order: none wait in a circle."""
    return list(records.select_for_update().order_by("id").values_list("id", flat=True)[:at_most])


def _change(records: QuerySet[PushRecord], **values: object) -> int:
    """How many. With these `values` they are no such `records` any more."""
    changed = 0
    while True:
        with transaction.atomic():
            ids = _locked(records, CHANGED_AT_ONCE)
            PushRecord.objects.filter(id__in=ids).update(**values)
        changed += len(ids)
        if len(ids) < CHANGED_AT_ONCE:
            return changed


# --- the queue -------------------------------------------------------------------------------------------------------
def take_due(limit: int, now: datetime) -> dict[str, list[UUID]]:
    """Of what is to be tried now, as much as the broker should hold, by platform; taken by this caller alone."""
    if not PushRecord.objects.filter(state__in=PushRecord.OPEN, due_at__lte=now).exists():
        return {}  # as it mostly is: this is asked every second
    _bury_expired(now)
    queued = PushRecord.objects.filter(state=State.QUEUED, due_at__gt=now)[:MAX_QUEUED].count()
    room = min(limit, MAX_QUEUED - queued)
    if room <= 0:
        return {}
    taken: defaultdict[str, list[UUID]] = defaultdict(list)
    with transaction.atomic():
        due = PushRecord.objects.select_for_update(skip_locked=True).filter(state__in=PushRecord.OPEN, due_at__lte=now)
        for push_id, platform in due.order_by("due_at").values_list("id", "platform")[:room]:
            taken[platform].append(push_id)
        ids = [push_id for of_platform in taken.values() for push_id in of_platform]
        PushRecord.objects.filter(id__in=ids).update(state=State.QUEUED, due_at=now + TAKEN_FOR_LOST)
    return taken


def put_back(push_ids: Collection[UUID], now: datetime) -> None:
    """The broker did not take them."""
    _change(PushRecord.objects.filter(id__in=push_ids, state=State.QUEUED), state=State.WAITING, due_at=now)


def claim(push_ids: Collection[UUID], now: datetime) -> list[Attempt]:
    """Those of these pushes that are still to be tried, for this worker alone."""
    with transaction.atomic():
        mine = PushRecord.objects.filter(id__in=_locked(PushRecord.objects.filter(id__in=push_ids, state=State.QUEUED)))
        mine.update(state=State.SENDING, tried_at=now, due_at=now + CLAIM, attempts=F("attempts") + 1)
        rows = mine.values_list(
            "id", "kind", "user_id", "user__username", "device_id", "device__token", "platform",
            "conversation_id", "seq", "count", "attempts", "expires_at", "tried_at",
        )  # fmt: skip
        return [Attempt(*row) for row in rows.order_by("id")]


def released(attempt: Attempt, error: str, now: datetime) -> Settlement:
    """It could not be tried now."""
    return Settlement(attempt, State.WAITING, now + PAUSE, error, is_try=False)


def broken(attempt: Attempt, error: str, now: datetime) -> Settlement:
    """It could not be tried, and it takes a mended program, or other facts, until it can."""
    return Settlement(attempt, State.WAITING, now + BROKEN_PAUSE, error, is_try=False)


def withdrawn(attempt: Attempt, reason: str, now: datetime) -> Settlement:
    return Settlement(attempt, State.WITHDRAWN, now, reason)


def answered(attempt: Attempt, provider: str, result: Result, now: datetime) -> Settlement:
    """What follows for the push from its provider's answer."""
    state, at = _after(attempt, result, now)
    return Settlement(attempt, state, at, result.error, provider, result.provider_id)


def _after(attempt: Attempt, result: Result, now: datetime) -> tuple[PushRecord.State, datetime]:
    match result.outcome:
        case Outcome.ACCEPTED:
            return State.SENT, now
        case Outcome.UNREGISTERED:
            return State.UNREGISTERED, now
        case Outcome.REJECTED:
            return State.DEAD, now
        case Outcome.RETRY:
            # Jitter is no secret.
            return State.WAITING, policy.due_after_failure(attempt.number, result.retry_after, random.random(), now)
        case Outcome.MISCONFIGURED:
            return State.WAITING, now + policy.MISCONFIGURED_PAUSE


# By hand: the ORM can give many rows values of their own only by a CASE, which it takes longer over than a push takes.
# Only of the attempt that this worker has made: should it have been taken for lost, another one tells.
_SETTLE = """
UPDATE push_pushrecord
SET state = %s, {moment} = %s, error = %s, provider = COALESCE(NULLIF(%s, ''), provider), attempts = attempts - %s,
    provider_id = named.column2
FROM (VALUES {names}) AS named
WHERE id = named.column1 AND tried_at = %s AND push_pushrecord.state = 'sending'
"""


def settle(settlements: Collection[Settlement]) -> None:
    """Write all of them down: in one statement those that differ in the provider's name for them alone."""
    alike = defaultdict(list)
    for one in settlements:
        alike[one.attempt.claimed_at, one.state, one.at, _words(one.error), one.provider, one.is_try].append(one)
    with transaction.atomic(), connection.cursor() as cursor:
        _locked(PushRecord.objects.filter(id__in=[one.attempt.id for one in settlements]))
        for (claimed_at, state, at, error, provider, is_try), ones in alike.items():
            sql = _SETTLE.format(
                moment="due_at" if state == State.WAITING else "done_at", names=", ".join(["(%s, %s)"] * len(ones))
            )
            names = [value for one in ones for value in (_sql(one.attempt.id, "id"), _words(one.provider_id))]
            values = [state, _sql(at, "due_at"), error, provider, int(not is_try)]
            cursor.execute(sql, [*values, *names, _sql(claimed_at, "tried_at")])


def _words(text: str) -> str:
    """What somebody else has said, as every database takes it: no NUL, no half of a character, and not too much."""
    return text.replace("\0", "?").encode(errors="replace").decode()[:WORDS_CHARS]


def _sql(value: UUID | datetime, field: str) -> object:
    """As this database takes it."""
    return PushRecord._meta.get_field(field).get_db_prep_value(value, connection)


def forget_device(attempt: Attempt, result: Result) -> None:
    """Unless it was registered again since: with another token, or with the same one after the provider saw it die."""
    same = Device.objects.filter(id=attempt.device_id, token=attempt.token)
    if result.unregistered_at is not None:
        same = same.filter(registered_at__lte=result.unregistered_at)
    delete_devices(same)


def delete_devices(devices: QuerySet[Device]) -> int:
    """What was planned for them stays, and goes nowhere. Locked as `plan` does it: the devices, then their pushes."""
    with transaction.atomic():
        ids = list(devices.select_for_update().order_by("id").values_list("id", flat=True))
        _locked(PushRecord.objects.filter(device__in=ids))
        return Device.objects.filter(id__in=ids).delete()[0]


def _bury_expired(now: datetime) -> None:
    expired = PushRecord.objects.filter(state__in=PushRecord.OPEN, due_at__lte=now, expires_at__lte=now)
    metrics.expired.inc(_change(expired, state=State.DEAD, done_at=now))


def counts() -> tuple[int, int]:
    """Pushes that have not come to their end, and dead letters."""
    of_state = PushRecord.objects.filter
    return of_state(state__in=PushRecord.OPEN).count(), of_state(state=State.DEAD).count()


# --- operators -------------------------------------------------------------------------------------------------------
def replay(dead: QuerySet[PushRecord], now: datetime) -> int:
    """Try these dead letters again, for another hour; returns how many."""
    again = dead.filter(state=State.DEAD, device__isnull=False)
    return _change(
        again, state=State.WAITING, due_at=now, expires_at=now + policy.LIFETIME, done_at=None, attempts=0, error=""
    )


def purge(now: datetime) -> int:
    """Forget what is older than 7 days; returns how many rows."""
    gone = 0
    while ids := list(_old(now).values_list("id", flat=True)[:PURGED_AT_ONCE]):
        gone += PushRecord.objects.filter(id__in=ids).delete()[0]
    return gone


def _old(now: datetime) -> QuerySet[PushRecord]:
    return PushRecord.objects.filter(created_at__lt=now - KEPT)

"""
Pushes that are due, and how soon a worker has settled them; for push.py, which has the worker running.

First all of them are due at once, which says how many it carries; then they fall due one after the other, at the rate
that is asked of it, which says how late they are.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import Max, Min
from django.utils import timezone

from apps.conversations.background import background
from apps.conversations.history import log
from apps.conversations.messages import Draft
from apps.conversations.models import Membership
from apps.push.models import Device, PushRecord
from apps.push.policy import LIFETIME
from tests.load.machine import cpu_s

ASKED_PER_SECOND = {"fcm": 500, "apns": 1_000}
WARM_UP = 1_000
PACED_S = 5
LONGEST_S = 120
AT_ONCE = 1_000


def people_with_news() -> list[Membership]:
    """The places of those who are to be told: the other one has written to each of them."""
    told = list(Membership.objects.order_by("conversation_id", "user_id"))[::2]
    others = dict(
        Membership.objects.exclude(id__in=[place.id for place in told]).values_list("conversation_id", "user_id")
    )
    background.run(_say(others))
    background.close()  # the file is the worker's from here on
    return told


async def _say(senders: dict[UUID, UUID]) -> None:
    history = await log()
    for conversation_id, sender_id in senders.items():
        text = "See you at the station at eight, platform nine and three quarters."
        await history.append(Draft(conversation_id, sender_id, uuid4(), text), 0)


def give_devices(places: Sequence[Membership], platform: str) -> list[tuple[Membership, Device]]:
    Device.objects.all().delete()
    devices = [
        Device(user_id=place.user_id, platform=platform, token=f"{number:064x}") for number, place in enumerate(places)
    ]
    return list(zip(places, Device.objects.bulk_create(devices, batch_size=AT_ONCE), strict=True))


# --- measuring -------------------------------------------------------------------------------------------------------
def measure(platform: str, places: Sequence[Membership], processes: dict[str, list[int]]) -> dict[str, Any]:
    devices = give_devices(places, platform)
    _carry(devices[:WARM_UP], lambda _: timezone.now(), processes)
    now = timezone.now()
    flood = _carry(devices, lambda _: now, processes)
    asked = ASKED_PER_SECOND[platform]
    start = timezone.now() + timedelta(seconds=2)
    paced = _carry(devices[: asked * PACED_S], lambda number: start + timedelta(seconds=number / asked), processes)
    span = flood["last"] - flood["first"]
    return {
        "per_second": round(len(devices) / span.total_seconds()),
        "states": flood["states"],
        "cpu_us_per_push": {kind: round(1e6 * seconds / len(devices)) for kind, seconds in flood["cpu_s"].items()},
        "paced": {
            "per_second": asked,
            "states": paced["states"],
            "late_p50_ms": paced["late_ms"][len(paced["late_ms"]) // 2],
            "late_p99_ms": paced["late_ms"][len(paced["late_ms"]) * 99 // 100],
        },
    }


def _carry(
    devices: Sequence[tuple[Membership, Device]], due: Callable[[int], datetime], processes: dict[str, list[int]]
) -> dict[str, Any]:
    """Have a push to each of these go out, due as it says, and wait until all are settled."""
    PushRecord.objects.all().delete()
    with transaction.atomic():
        rows = [_row(place, device, due(number)) for number, (place, device) in enumerate(devices)]
        PushRecord.objects.bulk_create(rows, batch_size=AT_ONCE)
    before = cpu_s(processes)
    deadline = time.monotonic() + LONGEST_S
    while PushRecord.objects.filter(state__in=PushRecord.OPEN).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all pushes were settled within {LONGEST_S} s")
        time.sleep(0.5)
    after = cpu_s(processes)
    found = list(PushRecord.objects.values_list("state", "created_at", "done_at"))
    late_ms = sorted(round(1_000 * (done - created).total_seconds()) for _, created, done in found if done is not None)
    return {
        **PushRecord.objects.aggregate(first=Min("done_at"), last=Max("done_at")),
        "states": dict(Counter(state for state, _, _ in found)),
        "late_ms": late_ms,
        "cpu_s": {kind: after[kind] - before[kind] for kind in processes},
    }


def _row(place: Membership, device: Device, due_at: datetime) -> PushRecord:
    return PushRecord(
        kind=PushRecord.Kind.MESSAGE, user_id=place.user_id, device=device, platform=device.platform,
        conversation_id=place.conversation_id, first_seq=1, seq=1, client_msg_id=uuid4(),
        created_at=due_at, due_at=due_at, expires_at=due_at + LIFETIME,
    )  # fmt: skip

"""Where a person can be reached when no socket of theirs is open, and what waits for a broker."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone


class Device(models.Model):
    class Platform(models.TextChoices):
        FCM = "fcm"
        APNS = "apns"
        WEB = "web"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="devices")
    platform = models.CharField(max_length=4, choices=Platform.choices)
    token = models.TextField()
    name = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    registered_at = models.DateTimeField(default=timezone.now)  # the last time that a client said it: the token lives
    session_id = models.CharField(max_length=40, blank=True, db_index=True)  # as in accounts.identity; goes with it

    class Meta:
        constraints = [models.UniqueConstraint(fields=["platform", "token"], name="one_device_per_token")]

    def __str__(self) -> str:
        return f"{self.platform} of {self.user_id}"


class NotificationSettings(models.Model):
    """How a person wants to be told. Who has no row wants it as the defaults are."""

    class Content(models.TextChoices):  # from the least said to the most
        NONE = "none", "That there is a new message"
        SENDER = "sender", "Who wrote, and where"
        FULL = "full", "Who wrote, and what"

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="notification_settings"
    )
    content = models.CharField(max_length=6, choices=Content.choices, default=Content.FULL)
    time_zone = models.CharField(max_length=64, default="UTC")
    # Both or none. From the first minute to before the last, each day; over midnight where the end comes first.
    quiet_from = models.TimeField(null=True, blank=True)
    quiet_until = models.TimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "notification settings"

    def __str__(self) -> str:
        return f"notification settings of {self.user_id}"


class PushRecord(models.Model):
    """
    The ledger: one row per device and push, from the decision to what the provider answered. Never what is said.

    It is also the queue: a task only says that a row may be due. `due_at` is when it is to be tried, and while a worker
    has it, when to take it for lost.
    """

    class Kind(models.TextChoices):
        MESSAGE = "message"
        CLEAR = "clear"

    class State(models.TextChoices):
        WAITING = "waiting"  # to be tried at due_at
        QUEUED = "queued"  # a task of it is with the broker
        SENDING = "sending"  # a worker has it
        SENT = "sent"  # the provider has accepted it
        WITHDRAWN = "withdrawn"  # read, muted or left before it went out
        UNREGISTERED = "unregistered"  # the device's token was dead
        DEAD = "dead"  # it can never go, or did not in time; push_dead shows it

    JOINABLE = (State.WAITING, State.QUEUED)  # no worker has read it yet: what comes now can still go with it
    OPEN = (*JOINABLE, State.SENDING)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=7, choices=Kind.choices)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    device = models.ForeignKey(Device, on_delete=models.SET_NULL, null=True, related_name="+")
    platform = models.CharField(max_length=4, choices=Device.Platform.choices)
    conversation_id = models.UUIDField()
    first_seq = models.BigIntegerField()  # the messages that it tells of, or up to where it clears
    seq = models.BigIntegerField()
    count = models.PositiveIntegerField(default=1)
    client_msg_id = models.UUIDField(null=True)  # of the newest of them
    state = models.CharField(max_length=12, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    provider = models.CharField(max_length=16, blank=True)
    provider_id = models.CharField(max_length=200, blank=True)
    error = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(default=timezone.now)
    tried_at = models.DateTimeField(null=True)  # the last time
    done_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True)  # of a message: it was read, and whatever showed it told so

    class Meta:
        indexes = [
            models.Index(fields=["device", "conversation_id", "seq"]),
            models.Index(fields=["conversation_id", "seq"]),
            models.Index(fields=["user", "created_at"]),
            models.Index(fields=["created_at"]),
            models.Index(fields=["due_at"], condition=Q(state__in=["waiting", "queued", "sending"]), name="push_due"),
            models.Index(
                fields=["user", "conversation_id"],
                condition=Q(kind="message", cleared_at__isnull=True),
                name="push_to_clear",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.conversation_id}:{self.seq} for {self.device_id}, {self.state}"


class OutboxTask(models.Model):
    """A task that the broker could not take. It is published again until the broker confirms it."""

    task = models.CharField(max_length=120)
    notices = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.task} of {self.created_at:%F %T}"

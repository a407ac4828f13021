"""Where a person can be reached when no socket of theirs is open, and what waits for a broker."""

import uuid

from django.conf import settings
from django.db import models
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


class OutboxTask(models.Model):
    """A task that the broker could not take. It is published again until the broker confirms it."""

    task = models.CharField(max_length=120)
    notices = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.task} of {self.created_at:%F %T}"

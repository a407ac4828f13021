"""Who talks with whom. What they say is not here: it lives in the numbered log (history/)."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class Conversation(models.Model):
    class Kind(models.TextChoices):
        DIRECT = "direct"
        GROUP = "group"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=6, choices=Kind.choices)
    title = models.CharField(max_length=80, blank=True)
    # "<lower user id>:<higher user id>" for a direct conversation: unique, so a pair has exactly one, whoever is first.
    direct_key = models.CharField(max_length=73, unique=True, null=True, editable=False)
    # Counts the changes of who may send. The log holds on to it: nobody sends by the word of older members (history/).
    members_version = models.BigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.title or f"{self.kind} {self.id}"

    @staticmethod
    def key_of_pair(one: uuid.UUID, other: uuid.UUID) -> str:
        return ":".join(sorted((str(one), str(other))))


class Membership(models.Model):
    """One person's place in a conversation. It stays when they leave (`left_at`), and is taken up again on return."""

    class Role(models.TextChoices):
        OWNER = "owner"
        ADMIN = "admin"
        MEMBER = "member"

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=6, choices=Role.choices, default=Role.MEMBER)
    start_seq = models.BigIntegerField(default=1)  # the first message they may see
    last_read_seq = models.BigIntegerField(default=0)
    joined_at = models.DateTimeField(auto_now_add=True)
    left_at = models.DateTimeField(null=True, blank=True)
    # How this person wants to be told of what is said here, by pushes.
    muted_until = models.DateTimeField(null=True, blank=True)
    mentions_only = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["conversation", "user"], name="one_membership_per_person"),
            models.UniqueConstraint(
                fields=["conversation"], condition=Q(role="owner", left_at__isnull=True), name="one_owner"
            ),
        ]
        indexes = [models.Index(fields=["user", "left_at"])]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.conversation_id}"

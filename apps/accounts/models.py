"""Who you are: people, the tokens of their clients, and whom they have blocked."""

import uuid
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.core.validators import RegexValidator
from django.db import models

username_validator = RegexValidator(
    r"\A[a-z0-9][a-z0-9_.-]{2,31}\Z",
    "A username has 3 to 32 characters: a to z, digits, and . _ - after the first.",
)
# A name must not pass for two lines, nor turn around the text that stands beside it.
display_name_validator = RegexValidator(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]",
    "A name has no control characters.",
    inverse_match=True,
)


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(username=(username or "").lower())

    def create_user(self, username: str, password: str | None = None, **fields: Any) -> "User":
        fields.setdefault("display_name", username)
        user = self.model(username=username.lower(), **fields)
        user.set_password(password)
        user.full_clean(exclude=["password"])
        user.save(using=self._db)
        return user

    def create_superuser(self, username: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(username, password, is_staff=True, is_superuser=True, **fields)

    def found_by(self, text: str, searcher_id: uuid.UUID) -> "models.QuerySet[User]":
        """Whom this person may find by the beginning of a username or name: not those who have blocked them."""
        found = self.filter(is_active=True).exclude(id=searcher_id).exclude(blocks__blocked_id=searcher_id)
        matches = models.Q(username__startswith=text.lower()) | models.Q(display_name__istartswith=text)
        return found.filter(matches).order_by("username")


class User(AbstractBaseUser, PermissionsMixin):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # Always stored in lower case, so that unique means unique whatever is typed.
    username = models.CharField(
        max_length=32,
        unique=True,
        validators=[username_validator],
        error_messages={"unique": "This username is taken."},
    )
    display_name = models.CharField(max_length=64, validators=[display_name_validator])
    email = models.EmailField(blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    date_joined = models.DateTimeField(auto_now_add=True)
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = UserManager()

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: list[str] = []

    class Meta:
        indexes = [models.Index(fields=["display_name"])]

    def __str__(self) -> str:
        return self.username

    def get_full_name(self) -> str:
        return self.display_name


class ApiToken(models.Model):
    """A client's credential. Only its SHA-256 is kept: a token has 256 random bits, so that a plain hash is enough."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    name = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name or 'token'} of {self.user_id}"

    @property
    def session_id(self) -> str:
        return f"t-{self.id.hex}"


class Block(models.Model):
    blocker = models.ForeignKey(User, on_delete=models.CASCADE, related_name="blocks")
    blocked = models.ForeignKey(User, on_delete=models.CASCADE, related_name="blocked_by")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["blocker", "blocked"], name="one_block_per_pair")]

    def __str__(self) -> str:
        return f"{self.blocker_id} blocks {self.blocked_id}"

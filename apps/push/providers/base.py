"""What a provider is: the one who carries a push to a device, and what came of it as a value."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

import msgspec

from apps.push.notification import Push


class Outcome(StrEnum):
    ACCEPTED = "accepted"  # the provider has it; whether and when the device shows it is not ours to know
    UNREGISTERED = "unregistered"  # the token is dead
    RETRY = "retry"  # transient, or unknown: it may have been accepted
    REJECTED = "rejected"  # this push can never go
    MISCONFIGURED = "misconfigured"  # our credentials or topic are wrong: nobody gets anything until that is mended


class Result(msgspec.Struct, frozen=True):
    outcome: Outcome
    provider_id: str = ""  # the provider's name for the accepted push
    error: str = ""  # the provider's own words, without content or token
    retry_after: timedelta | None = None  # from now
    unregistered_at: datetime | None = None  # aware; a token registered later than this is a living one


class Provider(Protocol):
    """
    Made once per worker process, without arguments (it reads the settings), and called from several threads at once.

    Its constructor raises ImproperlyConfigured for what can't work, such as a key file that is not there.
    """

    name: str

    def send(self, token: str, push: Push) -> Result:
        """Returns within 15 seconds, whatever the provider does. Never raises for what the outside world does."""
        ...

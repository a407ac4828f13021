"""SQL on the path of a message: a database that is away is an answer, not a bug."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import InterfaceError, OperationalError

from apps.accounts import aio
from apps.conversations.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


async def in_db(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`aio.in_db`, which raises Unavailable while the database is away."""
    try:
        return await aio.in_db(function, *args, **kwargs)
    except (InterfaceError, OperationalError) as error:
        raise Unavailable("The database is away; try again.", retry_after_ms=2_000) from error

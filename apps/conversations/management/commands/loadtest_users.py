"""
Many users at once for a load test, as JSON lines {username, token, direct_conversation_id, group_id}.

They are paired in direct conversations (an odd one out has none); the first M are also in one group.
"""

import json
import secrets
import uuid
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from apps.accounts.identity import digest_of
from apps.accounts.models import ApiToken, User
from apps.conversations.models import Conversation, Membership

BATCH = 1_000


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("users", type=int, metavar="N")
        parser.add_argument("--group-size", type=int, default=0, metavar="M", help="put the first M in one group")
        parser.add_argument("--yes", action="store_true", help="also in production settings")

    def handle(self, *args: Any, **options: Any) -> None:
        number, group_size = options["users"], options["group_size"]
        if number < 1 or not 0 <= group_size <= number:
            raise CommandError("N must be at least 1, and M from 0 to N.")
        if settings.PRODUCTION and not options["yes"]:
            raise CommandError("These are production settings; say --yes if you mean it.")
        with transaction.atomic():
            users, tokens = self._users(number)
            direct = self._direct_conversations(users)
            group = self._group(users[:group_size]) if group_size else None
        for index, user in enumerate(users):
            line = {
                "username": user.username,
                "token": tokens[user.id],
                "direct_conversation_id": direct.get(user.id),
                "group_id": group if index < group_size else None,
            }
            self.stdout.write(json.dumps(line))

    def _users(self, number: int) -> tuple[list[User], dict[uuid.UUID, str]]:
        run, password = secrets.token_hex(3), make_password(secrets.token_urlsafe(16))
        names = [f"load-{run}-{index:06d}" for index in range(number)]
        users = User.objects.bulk_create(
            [User(username=name, display_name=name, password=password) for name in names], batch_size=BATCH
        )
        tokens = {user.id: secrets.token_urlsafe(32) for user in users}
        rows = [ApiToken(user_id=user_id, digest=digest_of(token), name="load") for user_id, token in tokens.items()]
        ApiToken.objects.bulk_create(rows, batch_size=BATCH)
        return users, tokens

    def _direct_conversations(self, users: list[User]) -> dict[uuid.UUID, str]:
        pairs = list(zip(users[::2], users[1::2], strict=False))
        rows = [
            Conversation(kind=Conversation.Kind.DIRECT, direct_key=Conversation.key_of_pair(one.id, other.id))
            for one, other in pairs
        ]
        Conversation.objects.bulk_create(rows, batch_size=BATCH)
        members = [
            Membership(conversation=row, user=user) for row, pair in zip(rows, pairs, strict=True) for user in pair
        ]
        Membership.objects.bulk_create(members, batch_size=BATCH)
        return {member.user_id: str(member.conversation_id) for member in members}

    def _group(self, users: list[User]) -> str:
        group = Conversation.objects.create(kind=Conversation.Kind.GROUP, title=f"Load of {len(users)}")
        owner, *rest = users
        rows = [Membership(conversation=group, user=owner, role=Membership.Role.OWNER)]
        rows += [Membership(conversation=group, user=user) for user in rest]
        Membership.objects.bulk_create(rows, batch_size=BATCH)
        return str(group.id)

"""The people of a fresh installation, so that it can be tried at once."""

import os
import secrets

from django.conf import settings
from django.db import transaction

from apps.accounts.models import User

DEMO_USERS = {
    "ada": ("Ada", False),
    "bob": ("Bob", False),
    "admin": ("Admin", True),
}


def create_demo_users() -> list[dict[str, str]]:
    """
    Make them with new passwords, if nobody is here yet; returns [{username, password, note}], empty if people are.

    The passwords are in $DATA/demo-users.txt as well, for its owner alone. Both or neither: raises OSError when that
    file can't be written. In production there are no demo users.
    """
    if settings.PRODUCTION or User.objects.exists():
        return []
    made = [
        {"username": name, "password": secrets.token_urlsafe(9), "note": "   (staff: /admin/)" if staff else ""}
        for name, (_, staff) in DEMO_USERS.items()
    ]
    file = settings.DATA / "demo-users.txt"
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.writelines(f"{user['username']} {user['password']}\n" for user in made)
    with transaction.atomic():
        for user in made:
            display_name, staff = DEMO_USERS[user["username"]]
            create = User.objects.create_superuser if staff else User.objects.create_user
            create(user["username"], user["password"], display_name=display_name)
        new.rename(file)
    return made

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.accounts.models import User
from tests.accounts.conftest import logged_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def data(settings: Any, tmp_path: Path) -> Path:
    settings.DATA = tmp_path
    return tmp_path


def demo_users() -> dict[str, str]:
    out = StringIO()
    call_command("demo_users", stdout=out)
    return dict(line.split(" ") for line in out.getvalue().splitlines())


def test_a_fresh_installation_has_three_people_who_can_log_in(data: Path) -> None:
    passwords = demo_users()
    assert set(passwords) == {"ada", "bob", "admin"}
    assert len(set(passwords.values())) == 3
    for user in User.objects.all():
        assert logged_in(user, passwords[user.username])
        assert user.is_staff == (user.username == "admin")
    file = data / "demo-users.txt"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == "".join(f"{name} {password}\n" for name, password in passwords.items())


def test_a_second_run_says_and_changes_nothing(data: Path) -> None:
    demo_users()
    before = list(User.objects.order_by("pk").values()), (data / "demo-users.txt").read_text()
    assert demo_users() == {}
    assert (list(User.objects.order_by("pk").values()), (data / "demo-users.txt").read_text()) == before


def test_where_people_are_already_nobody_is_added(data: Path, ada: User) -> None:
    assert demo_users() == {}
    assert not (data / "demo-users.txt").exists()


def test_nobody_is_made_whose_password_cannot_be_kept(settings: Any, tmp_path: Path) -> None:
    settings.DATA = tmp_path / "missing"
    with pytest.raises(CommandError, match="can't be kept"):
        demo_users()
    assert not User.objects.exists()


def test_nobody_is_made_when_the_file_cannot_take_its_place(data: Path) -> None:
    (data / "demo-users.txt").mkdir()
    with pytest.raises(CommandError):
        demo_users()
    assert not User.objects.exists()


def test_production_has_no_demo_users(data: Path, settings: Any) -> None:
    settings.PRODUCTION = True
    with pytest.raises(CommandError, match="production"):
        demo_users()
    assert not User.objects.exists()

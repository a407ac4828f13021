import pytest
from django.core.exceptions import ValidationError

from apps.accounts.models import ApiToken, User
from apps.accounts.services import issue_token, sign_up
from tests.accounts.conftest import PASSWORD

pytestmark = pytest.mark.django_db


def test_a_username_is_the_same_person_in_any_case() -> None:
    ada = sign_up("Ada", PASSWORD, "Ada")
    assert ada.username == "ada"
    assert User.objects.get_by_natural_key("ADA") == ada
    with pytest.raises(ValidationError) as refused:
        sign_up("aDa", PASSWORD, "Another")
    assert "username" in refused.value.message_dict


@pytest.mark.parametrize(
    "name", ["", "ab", "a" * 33, "a b c", "ädä", "a\x00b", ".ada", "-ada", "ada\n", "a/b/c", "a@b"]
)
def test_what_is_no_username_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        sign_up(name, PASSWORD, "Name")


@pytest.mark.parametrize("name", ["Ada\x00", "Ada\nLovelace", "Ada\u202e", "\u2066Ada", "x" * 65])
def test_a_name_that_would_disturb_the_text_beside_it_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        sign_up("ada", PASSWORD, name)


@pytest.mark.parametrize("name", ["Ada Lovelace", "عادا", "👩‍💻", "O'Neil <b>"])
def test_a_name_may_be_what_people_are_called(name: str) -> None:
    assert sign_up("ada", PASSWORD, name).display_name == name


@pytest.mark.parametrize("password", ["short", "password", "12345678", "ada.lovelace"])
def test_a_password_that_is_easily_guessed_is_refused(password: str) -> None:
    with pytest.raises(ValidationError):
        sign_up("ada.lovelace", password, "Ada")


def test_a_token_is_not_kept_in_a_form_that_could_be_used() -> None:
    token = issue_token(sign_up("ada", PASSWORD, "Ada"), "phone")
    kept = ApiToken.objects.values().get()
    assert len(token) >= 43
    assert token not in str(kept)

"""What people fill in, beyond the forms that allauth has."""

from typing import Any

from allauth.account.forms import SignupForm as AllauthSignupForm
from django import forms

from apps.accounts.models import User, display_name_validator


class SignupForm(AllauthSignupForm):
    display_name = forms.CharField(
        max_length=64,
        validators=[display_name_validator],
        help_text="What others see.",
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )
    field_order = ["username", "display_name", "email", "password1"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].help_text = "3 to 32 characters: a to z, digits, and . _ - after the first."
        self.fields["password1"].help_text = "At least 8 characters, and not one that is easily guessed."
        self.fields["email"].label = "Email"
        self.fields["email"].help_text = "Only for when you forget your password."


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg]  # Django's own class takes no parameter
    class Meta:
        model = User
        fields = ["display_name"]
        widgets = {"display_name": forms.TextInput(attrs={"autocomplete": "name"})}
        help_texts = {"display_name": "What others see."}


class TokenForm(forms.Form):
    name = forms.CharField(
        max_length=64,
        label="Name",
        help_text="Which client it is for.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

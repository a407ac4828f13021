from typing import Any

from allauth.account.forms import SignupForm as AllauthSignupForm
from django import forms

from apps.accounts.models import User


class SignupForm(AllauthSignupForm):
    display_name = forms.CharField(
        max_length=64, help_text="What others see.", widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    field_order = ["username", "display_name", "email", "password1"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].help_text = "3 to 32 characters: a to z, digits, and . _ - after the first."
        self.fields["email"].help_text = "Only for when you forget your password."


class ProfileForm(forms.ModelForm[User]):
    class Meta:
        model = User
        fields = ["display_name", "email"]

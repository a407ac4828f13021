"""People, for those who run the server. Nobody is deleted here: what they said stays, and says whose it was."""

from typing import Any

from allauth.usersessions.models import UserSession
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, AdminUserCreationForm
from django.db.models import Count, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html

from apps.accounts import services
from apps.accounts.models import ApiToken, User


class NewPasswordForm(AdminPasswordChangeForm):
    def save(self, commit: bool = True) -> User:
        user: User = super().save(commit)
        services.end_all_sessions(user)
        return user


class NewUserForm(AdminUserCreationForm):
    class Meta:
        model = User
        fields = ("username", "display_name")

    def clean_username(self) -> str:
        self.cleaned_data["username"] = self.cleaned_data["username"].lower()
        return str(super().clean_username())


class ReadOnlyInline(admin.TabularInline):
    extra = 0
    can_delete = False  # a deleted row would not end the session: the actions do

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class SessionInline(ReadOnlyInline):
    model = UserSession
    verbose_name_plural = "browser sessions"
    fields = readonly_fields = ("ip", "user_agent", "created_at", "last_seen_at")


class TokenInline(ReadOnlyInline):
    model = ApiToken
    verbose_name_plural = "tokens of clients"
    fields = readonly_fields = ("name", "created_at")


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    form = ModelForm
    add_form = NewUserForm
    change_password_form = NewPasswordForm
    list_display = (
        "username",
        "display_name",
        "is_active",
        "is_staff",
        "sessions",
        "tokens",
        "last_seen_at",
        "date_joined",
    )
    list_filter = ("is_active", "is_staff", "is_superuser", "last_seen_at", "date_joined")
    search_fields = ("username", "display_name", "email")
    list_per_page = 50
    fieldsets = (
        (None, {"fields": ("username", "display_name", "email", "password_link")}),
        ("What they may do", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Dates", {"fields": ("last_seen_at", "last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"fields": ("username", "display_name", "usable_password", "password1", "password2")}),)
    readonly_fields = ("email", "password_link", "is_active", "last_seen_at", "last_login", "date_joined")
    inlines = (SessionInline, TokenInline)
    actions = ("deactivate", "reactivate", "end_all_sessions")

    # --- who may do what -------------------------------------------------------------------------------------------
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever could change a superuser, or set their password, would be one."""
        if obj is not None and obj.is_superuser and not request.user.is_superuser:
            return False
        return bool(super().has_change_permission(request, obj))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        powers = () if request.user.is_superuser else ("is_staff", "is_superuser", "groups", "user_permissions")
        name = () if obj is None else ("username",)  # by which others know them
        return (*self.readonly_fields, *name, *powers)

    def get_inlines(self, request: HttpRequest, obj: Any) -> tuple[type[ReadOnlyInline], ...]:
        return self.inlines if obj is not None else ()

    # --- columns ---------------------------------------------------------------------------------------------------
    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        counts = {
            "session_count": Count("usersession", distinct=True),
            "token_count": Count("api_tokens", distinct=True),
        }
        return super().get_queryset(request).annotate(**counts)

    @admin.display(ordering="session_count")
    def sessions(self, user: Any) -> int:
        return int(user.session_count)

    @admin.display(ordering="token_count")
    def tokens(self, user: Any) -> int:
        return int(user.token_count)

    @admin.display(description="password")
    def password_link(self, user: User) -> str:
        url = reverse("admin:auth_user_password_change", args=[user.pk])
        return format_html('<a href="{}">Set another one</a>, which ends all sessions and tokens.', url)

    # --- actions ---------------------------------------------------------------------------------------------------
    @admin.action(description="Deactivate: log out everywhere, and let them in no more", permissions=["change"])
    def deactivate(self, request: HttpRequest, chosen: QuerySet[User]) -> TemplateResponse | None:
        users = self._changeable(request, chosen.filter(is_active=True).exclude(pk=request.user.pk))
        if "confirmed" not in request.POST:
            return self._confirm(request, users, "deactivate", "Deactivate these people?")
        for user in users:
            services.deactivate(user)
            self.log_change(request, user, "Deactivated.")
        self.message_user(request, f"Deactivated: {_names(users)}.", messages.SUCCESS)
        return None

    @admin.action(description="Reactivate", permissions=["change"])
    def reactivate(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        users = self._changeable(request, chosen.filter(is_active=False))
        for user in users:
            services.reactivate(user)
            self.log_change(request, user, "Reactivated.")
        self.message_user(request, f"Reactivated: {_names(users)}.", messages.SUCCESS)

    @admin.action(description="End all sessions and tokens", permissions=["change"])
    def end_all_sessions(self, request: HttpRequest, chosen: QuerySet[User]) -> TemplateResponse | None:
        users = self._changeable(request, chosen)
        if "confirmed" not in request.POST:
            return self._confirm(request, users, "end_all_sessions", "End all sessions and tokens of these people?")
        for user in users:
            services.end_all_sessions(user)
            self.log_change(request, user, "All sessions and tokens ended.")
        self.message_user(request, f"Ended all sessions and tokens of: {_names(users)}.", messages.SUCCESS)
        return None

    def _changeable(self, request: HttpRequest, users: QuerySet[User]) -> list[User]:
        return [user for user in users if self.has_change_permission(request, user)]

    def _confirm(self, request: HttpRequest, users: list[User], action: str, title: str) -> TemplateResponse:
        context = self.admin_site.each_context(request) | {
            "title": title,
            "users": users,
            "action": action,
            "opts": self.opts,
        }
        return TemplateResponse(request, "admin/accounts/user/confirm.html", context)


def _names(users: list[User]) -> str:
    return ", ".join(user.username for user in users) or "nobody"

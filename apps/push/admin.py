"""Devices, without what it takes to send to them."""

from django.contrib import admin
from django.http import HttpRequest

from apps.push.models import Device


@admin.register(Device)
class DeviceAdmin(admin.ModelAdmin):
    list_display = ("user", "platform", "masked_token", "name", "created_at")
    list_filter = ("platform", "created_at")
    list_select_related = ("user",)
    search_fields = ("user__username", "name")
    fields = ("user", "platform", "masked_token", "name", "created_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Device | None = None) -> bool:
        return False

    @admin.display(description="token")
    def masked_token(self, device: Device) -> str:
        return f"{device.token[:4]}…" if len(device.token) >= 16 else "…"

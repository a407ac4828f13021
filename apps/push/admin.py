"""Devices, without what it takes to send to them; how people want to be told; and the ledger, which nobody edits."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from apps.push import ledger
from apps.push.models import Device, NotificationSettings, PushRecord


@admin.register(Device)
class DeviceAdmin(admin.ModelAdmin):
    list_display = ("user", "platform", "masked_token", "name", "created_at", "registered_at")
    list_filter = ("platform", "created_at")
    list_select_related = ("user",)
    search_fields = ("user__username", "name")
    fields = ("user", "platform", "masked_token", "name", "created_at", "registered_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Device | None = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: Device) -> None:
        self.delete_queryset(request, Device.objects.filter(id=obj.id))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        ledger.delete_devices(queryset)

    @admin.display(description="token")
    def masked_token(self, device: Device) -> str:
        return f"{device.token[:4]}…" if len(device.token) >= 16 else "…"


@admin.register(NotificationSettings)
class NotificationSettingsAdmin(admin.ModelAdmin):
    list_display = ("user", "content", "quiet_from", "quiet_until", "time_zone")
    list_filter = ("content",)
    list_select_related = ("user",)
    search_fields = ("user__username",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: NotificationSettings | None = None) -> bool:
        return False


@admin.register(PushRecord)
class PushRecordAdmin(admin.ModelAdmin):
    list_display = (
        "created_at", "user", "platform", "kind", "state", "conversation_id", "seq", "count", "attempts", "provider",
        "error",
    )  # fmt: skip
    list_filter = ("state", "provider", "platform", "kind", "created_at")
    list_select_related = ("user",)
    list_per_page = 50
    show_full_result_count = False
    ordering = ("-created_at",)
    search_fields = ("user__username", "=conversation_id", "=client_msg_id", "=provider_id")
    exclude = ("device",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: PushRecord | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: PushRecord | None = None) -> bool:
        return False

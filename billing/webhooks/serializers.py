"""What `/api/billing/webhooks` takes and answers."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from billing.accounts.serializers import StrictBooleanField, StrictCharField, StrictIntegerField

from .models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from .services import SECRET_OVERLAP, SECRET_OVERLAP_MAX


class KnownFieldsSerializer(serializers.Serializer):
    """Refuses fields it does not have: a misspelt one would be lost in silence."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(set(data) - set(self.fields))):
            raise serializers.ValidationError({str(unknown[0]): [_("There is no such field.")]})
        return super().to_internal_value(data)


class EventTypeSerializer(serializers.Serializer):
    name = serializers.CharField(help_text="What `event_types` and a message's `type` say.")
    description = serializers.CharField()
    fields = serializers.ListField(child=serializers.CharField(), help_text="What `data.after` and `data.before` may hold.")


class EndpointSerializer(serializers.ModelSerializer):
    class Meta:
        model = WebhookEndpoint
        fields = [
            "id",
            "url",
            "description",
            "event_types",
            "is_enabled",
            "disabled_at",
            "disabled_by",
            "failing_since",
            "last_success_at",
            "last_failure_at",
            "previous_secret_until",
            "created_at",
        ]
        extra_kwargs = {
            "disabled_by": {"help_text": "customer, operator, system (it failed for three days), or empty."},
            "previous_secret_until": {"help_text": "Until then messages carry a second signature, by the secret before."},
        }


class EndpointWithSecretSerializer(EndpointSerializer):
    secret = serializers.CharField(help_text="Verifies signatures (Standard Webhooks). In this answer only.")

    class Meta(EndpointSerializer.Meta):
        fields = [*EndpointSerializer.Meta.fields, "secret"]


class EndpointCreateSerializer(KnownFieldsSerializer):
    url = StrictCharField(max_length=2000, help_text="https:// and a public host.")
    event_types = serializers.ListField(child=StrictCharField(max_length=64), allow_empty=False, max_length=100)
    description = StrictCharField(max_length=200, required=False, allow_blank=True, default="")


class EndpointChangeSerializer(KnownFieldsSerializer):
    url = StrictCharField(max_length=2000, required=False)
    event_types = serializers.ListField(child=StrictCharField(max_length=64), allow_empty=False, max_length=100, required=False)
    description = StrictCharField(max_length=200, required=False, allow_blank=True)
    is_enabled = StrictBooleanField(required=False, help_text="false: nothing is sent; what waits is canceled.")


class RotateSerializer(KnownFieldsSerializer):
    overlap_seconds = StrictIntegerField(
        min_value=0,
        max_value=int(SECRET_OVERLAP_MAX.total_seconds()),
        required=False,
        default=int(SECRET_OVERLAP.total_seconds()),
        help_text="How long messages are signed with both secrets.",
    )


class ReplaySinceSerializer(KnownFieldsSerializer):
    since = serializers.DateTimeField(help_text="What failed or was canceled from then on is sent again.")


class ReplayedSerializer(serializers.Serializer):
    replayed = serializers.IntegerField(help_text="How many deliveries were queued, at most 1,000 at once.")


class DeliverySerializer(serializers.ModelSerializer):
    replay_of = serializers.UUIDField(source="replay_of_id", allow_null=True)

    class Meta:
        model = WebhookDelivery
        fields = [
            "id",
            "kind",
            "message_id",
            "event_type",
            "state",
            "attempts",
            "next_attempt_at",
            "last_status",
            "last_error",
            "created_at",
            "finished_at",
            "replay_of",
        ]


class AttemptSerializer(serializers.ModelSerializer):
    class Meta:
        model = WebhookAttempt
        fields = ["number", "at", "duration_ms", "status", "error", "response"]


class DeliveryDetailSerializer(DeliverySerializer):
    body = serializers.CharField(help_text="What is sent, to the byte.")
    log = AttemptSerializer(many=True)

    class Meta(DeliverySerializer.Meta):
        fields = [*DeliverySerializer.Meta.fields, "body", "log"]


class DeliveryQuerySerializer(serializers.Serializer):
    state = serializers.ChoiceField(choices=WebhookDelivery.State.choices, required=False)
    event_type = serializers.CharField(max_length=64, required=False)


def endpoint_body(endpoint: WebhookEndpoint, secret: str) -> dict[str, Any]:
    """An endpoint as it is answered once, with its secret."""
    return {**EndpointSerializer(endpoint).data, "secret": secret}

import django.db.models.deletion
from django.db import migrations, models

import iafactory.common.clock
import iafactory.common.ids


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0011_operator_keys"),
    ]

    operations = [
        migrations.CreateModel(
            name="GatewayWebhook",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("gateway", models.CharField(max_length=32)),
                ("mode", models.CharField(choices=[("test", "Test"), ("live", "Live")], max_length=8)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("received", "Received: to be worked"),
                            ("processed", "Processed"),
                            ("ignored", "Ignored: nothing to do"),
                            ("failed", "Failed: to be tried again, or looked at"),
                            ("rejected", "Rejected: not the gateway's word"),
                            ("replayed", "Replayed: to be worked again"),
                        ],
                        default="received",
                        max_length=16,
                    ),
                ),
                ("received_at", models.DateTimeField(default=iafactory.common.clock.now, editable=False)),
                ("source_address", models.GenericIPAddressField(blank=True, null=True)),
                (
                    "headers",
                    models.JSONField(blank=True, default=dict, help_text="Those that its signature needs, and a few more."),
                ),
                ("body", models.BinaryField(help_text="Exactly as it arrived.")),
                ("body_sha256", models.CharField(max_length=64)),
                ("verified_at", models.DateTimeField(blank=True, null=True)),
                (
                    "signed",
                    models.BooleanField(default=True, help_text="Off: the gateway signs no such event; only the address knew."),
                ),
                ("rejection", models.CharField(blank=True, max_length=32)),
                ("event_id", models.CharField(blank=True, max_length=255)),
                ("event_type", models.CharField(blank=True, max_length=100)),
                ("subject", models.CharField(blank=True, max_length=16)),
                ("reference", models.CharField(blank=True, max_length=64)),
                ("checkout_id", models.CharField(blank=True, max_length=128)),
                ("gateway_payment_id", models.CharField(blank=True, max_length=128)),
                ("refund_id", models.CharField(blank=True, max_length=128)),
                ("dispute_id", models.CharField(blank=True, max_length=128)),
                ("truth", models.JSONField(blank=True, default=dict, help_text="What the gateway said when asked.")),
                (
                    "note",
                    models.CharField(blank=True, help_text="Why it was ignored, failed or went to review.", max_length=500),
                ),
                ("deliveries", models.PositiveIntegerField(default=1, help_text="How often the gateway sent it.")),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("next_attempt_at", models.DateTimeField(blank=True, null=True)),
                ("worked_at", models.DateTimeField(blank=True, null=True)),
                (
                    "payment",
                    models.ForeignKey(
                        blank=True,
                        help_text="Whom it concerns.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="webhooks",
                        to="billing.payment",
                    ),
                ),
            ],
            options={
                "ordering": ["-received_at"],
                "permissions": [("replay_gatewaywebhook", "Can have a webhook worked again")],
                "indexes": [
                    models.Index(fields=["-received_at"], name="gatewaywebhook_received"),
                    models.Index(fields=["gateway", "gateway_payment_id"], name="gatewaywebhook_payment_id"),
                    models.Index(
                        condition=models.Q(("state__in", ("received", "failed", "replayed"))),
                        fields=["next_attempt_at"],
                        name="gatewaywebhook_next_attempt",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("verified_at__isnull", False)),
                        fields=("gateway", "event_id"),
                        name="gatewaywebhook_event_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("verified_at__isnull", True), models.Q(("event_id", ""), _negated=True), _connector="OR"
                        ),
                        name="gatewaywebhook_verified_has_event",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("state__in", ("received", "rejected")), ("verified_at__isnull", False), _connector="OR"
                        ),
                        name="gatewaywebhook_worked_is_verified",
                    ),
                ],
            },
        ),
    ]

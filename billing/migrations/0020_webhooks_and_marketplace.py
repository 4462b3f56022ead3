"""Customers' webhook endpoints and deliveries, queued with each event; the marketplace; notices about credits."""

from decimal import Decimal

import django.contrib.postgres.fields
import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import iafactory.common.clock
import iafactory.common.crypto
import iafactory.common.ids

FORWARDS = """
CREATE FUNCTION webhook_event_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.account_id IS NOT NULL AND EXISTS (SELECT FROM billing_webhookendpoint WHERE account_id = NEW.account_id) THEN
        INSERT INTO billing_webhookqueueitem (event_id) VALUES (NEW.id);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER webhook_queue AFTER INSERT ON billing_event FOR EACH ROW EXECUTE FUNCTION webhook_event_queue();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON billing_marketplaceplan
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('plans');
"""

BACKWARDS = """
DROP TRIGGER announce ON billing_marketplaceplan;
DROP TRIGGER webhook_queue ON billing_event;
DROP FUNCTION webhook_event_queue();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0014_invoice_editions"),
    ]

    operations = [
        migrations.CreateModel(
            name="WebhookQueueItem",
            fields=[
                (
                    "event",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="billing.event",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="CreditNotice",
            fields=[
                (
                    "account",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="credit_notice",
                        serialize=False,
                        to="billing.account",
                    ),
                ),
                (
                    "low_percent",
                    models.PositiveSmallIntegerField(
                        default=10,
                        help_text="Low at this share of the credits that lots still in use began with; 0: never low.",
                        validators=[django.core.validators.MaxValueValidator(99)],
                    ),
                ),
                (
                    "low_credits",
                    models.DecimalField(
                        blank=True,
                        decimal_places=6,
                        help_text="Low at this many credits, whatever the share.",
                        max_digits=20,
                        null=True,
                    ),
                ),
                (
                    "level",
                    models.CharField(
                        blank=True,
                        choices=[("ok", "Enough"), ("low", "Low"), ("exhausted", "Exhausted: less than one credit")],
                        help_text="Empty: not looked at yet.",
                        max_length=16,
                        null=True,
                    ),
                ),
                (
                    "level_balance",
                    models.DecimalField(
                        decimal_places=6,
                        default=Decimal("0"),
                        help_text="The balance at which the level was reached.",
                        max_digits=20,
                    ),
                ),
                ("level_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("low_percent__lte", 99)), name="creditnotice_percent_range"),
                    models.CheckConstraint(
                        condition=models.Q(("low_credits__isnull", True), ("low_credits__gte", 0), _connector="OR"),
                        name="creditnotice_credits_not_negative",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="WebhookEndpoint",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("url", models.CharField(max_length=2000)),
                ("description", models.CharField(blank=True, max_length=200)),
                (
                    "event_types",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=64), help_text="Names of the catalogue of events.", size=None
                    ),
                ),
                ("secret", iafactory.common.crypto.EncryptedTextField()),
                ("previous_secret", iafactory.common.crypto.EncryptedTextField(blank=True, null=True)),
                ("previous_secret_until", models.DateTimeField(blank=True, null=True)),
                ("is_enabled", models.BooleanField(default=True, verbose_name="enabled")),
                ("disabled_at", models.DateTimeField(blank=True, null=True)),
                (
                    "disabled_by",
                    models.CharField(
                        blank=True,
                        choices=[("customer", "The customer"), ("operator", "An operator"), ("system", "Failures")],
                        max_length=16,
                    ),
                ),
                ("disabled_reason", models.CharField(blank=True, max_length=300)),
                (
                    "notice_due_at",
                    models.DateTimeField(
                        blank=True, help_text="Since when a mail about the disabling waits to be sent.", null=True
                    ),
                ),
                (
                    "failing_since",
                    models.DateTimeField(blank=True, help_text="First failure since the last success.", null=True),
                ),
                ("last_success_at", models.DateTimeField(blank=True, null=True)),
                ("last_failure_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(default=iafactory.common.clock.now, editable=False)),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="webhook_endpoints", to="billing.account"
                    ),
                ),
            ],
            options={
                "ordering": ["-created_at"],
                "permissions": [("disable_webhookendpoint", "Can disable and enable webhook endpoints")],
            },
        ),
        migrations.CreateModel(
            name="WebhookDelivery",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[("event", "Event"), ("replay", "Replay"), ("test", "Test")], default="event", max_length=8
                    ),
                ),
                (
                    "message_id",
                    models.CharField(help_text="`webhook-id`: the same in every attempt and replay.", max_length=64),
                ),
                ("event_type", models.CharField(max_length=64)),
                ("body", models.TextField(help_text="What is sent, to the byte.")),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("pending", "Pending: waits for its next attempt"),
                            ("delivered", "Delivered"),
                            ("failed", "Failed: given up"),
                            ("canceled", "Canceled: the endpoint was disabled"),
                        ],
                        default="pending",
                        max_length=16,
                    ),
                ),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("next_attempt_at", models.DateTimeField(blank=True, null=True)),
                (
                    "leased_until",
                    models.DateTimeField(
                        blank=True, help_text="A worker is sending it; afterwards it is taken for dead.", null=True
                    ),
                ),
                (
                    "last_status",
                    models.PositiveSmallIntegerField(blank=True, help_text="HTTP status of the last attempt.", null=True),
                ),
                ("last_error", models.CharField(blank=True, max_length=64)),
                ("created_at", models.DateTimeField(default=iafactory.common.clock.now, editable=False)),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                (
                    "event",
                    models.ForeignKey(
                        blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.event"
                    ),
                ),
                (
                    "replay_of",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="replays",
                        to="billing.webhookdelivery",
                    ),
                ),
                (
                    "endpoint",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="deliveries", to="billing.webhookendpoint"
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "webhook deliveries",
                "ordering": ["-created_at"],
                "permissions": [("replay_webhookdelivery", "Can replay webhook deliveries")],
            },
        ),
        migrations.CreateModel(
            name="KeyBudgetNotice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("window", models.CharField(choices=[("day", "Day"), ("month", "Month")], max_length=8)),
                ("window_start", models.DateTimeField()),
                ("level", models.CharField(choices=[("low", "Four fifths spent"), ("exhausted", "Spent")], max_length=16)),
                ("credit_limit", models.DecimalField(decimal_places=6, max_digits=20)),
                ("at", models.DateTimeField(default=iafactory.common.clock.now)),
                (
                    "api_key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="budget_notices", to="billing.apikey"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("api_key", "window", "window_start", "level", "credit_limit"), name="keybudgetnotice_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="MarketplaceAccount",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("marketplace", models.CharField(choices=[("rapidapi", "RapidAPI")], default="rapidapi", max_length=16)),
                ("external_user", models.CharField(help_text="The user's name at the marketplace.", max_length=200)),
                (
                    "subscription",
                    models.CharField(blank=True, help_text="Its subscription there, as last told.", max_length=100),
                ),
                ("previous_subscription", models.CharField(blank=True, max_length=100, null=True)),
                ("subscription_since", models.DateTimeField(help_text="When it was first told.")),
                ("created_at", models.DateTimeField(default=iafactory.common.clock.now, editable=False)),
                (
                    "account",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT, related_name="marketplace", to="billing.account"
                    ),
                ),
            ],
            options={
                "ordering": ["-created_at"],
                "constraints": [
                    models.UniqueConstraint(fields=("marketplace", "external_user"), name="marketplaceaccount_user_unique")
                ],
            },
        ),
        migrations.CreateModel(
            name="MarketplacePlan",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("marketplace", models.CharField(choices=[("rapidapi", "RapidAPI")], default="rapidapi", max_length=16)),
                (
                    "subscription",
                    models.CharField(
                        help_text="Its name at the marketplace: BASIC, PRO, ULTRA, MEGA, or CUSTOM.", max_length=100
                    ),
                ),
                (
                    "plan",
                    models.ForeignKey(
                        help_text="The marketplace collects the money: no invoice is written here, whatever the plan's price.",
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="marketplace_plans",
                        to="billing.plan",
                    ),
                ),
            ],
            options={
                "ordering": ["marketplace", "subscription"],
                "constraints": [models.UniqueConstraint(fields=("marketplace", "subscription"), name="marketplaceplan_unique")],
            },
        ),
        migrations.CreateModel(
            name="WebhookAttempt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveSmallIntegerField()),
                ("at", models.DateTimeField()),
                ("duration_ms", models.PositiveIntegerField()),
                (
                    "status",
                    models.PositiveSmallIntegerField(blank=True, help_text="HTTP status; empty: no answer came.", null=True),
                ),
                ("error", models.CharField(blank=True, help_text="Empty: the endpoint took it.", max_length=64)),
                ("response", models.TextField(blank=True, help_text="The first bytes of the answer.")),
                (
                    "delivery",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="log", to="billing.webhookdelivery"
                    ),
                ),
            ],
            options={
                "ordering": ["number"],
                "constraints": [models.UniqueConstraint(fields=("delivery", "number"), name="webhookattempt_number_unique")],
            },
        ),
        migrations.AddIndex(
            model_name="webhookendpoint",
            index=models.Index(fields=["account", "-created_at"], name="webhookendpoint_account"),
        ),
        migrations.AddIndex(
            model_name="webhookendpoint",
            index=models.Index(
                condition=models.Q(("notice_due_at__isnull", False)),
                fields=["notice_due_at"],
                name="webhookendpoint_notice_due",
            ),
        ),
        migrations.AddConstraint(
            model_name="webhookendpoint",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("disabled_at__isnull", True), ("disabled_by", ""), ("is_enabled", True)),
                    models.Q(
                        ("disabled_at__isnull", False), ("is_enabled", False), models.Q(("disabled_by", ""), _negated=True)
                    ),
                    _connector="OR",
                ),
                name="webhookendpoint_disabled_by_somebody",
            ),
        ),
        migrations.AddConstraint(
            model_name="webhookendpoint",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("previous_secret__isnull", True), ("previous_secret_until__isnull", True)),
                    models.Q(("previous_secret__isnull", False), ("previous_secret_until__isnull", False)),
                    _connector="OR",
                ),
                name="webhookendpoint_previous_secret_ends",
            ),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(
                condition=models.Q(("state", "pending")), fields=["endpoint", "next_attempt_at"], name="webhookdelivery_due"
            ),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(fields=["endpoint", "-created_at"], name="webhookdelivery_endpoint"),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(fields=["-created_at"], name="webhookdelivery_created"),
        ),
        migrations.AddConstraint(
            model_name="webhookdelivery",
            constraint=models.UniqueConstraint(
                condition=models.Q(("kind", "event")), fields=("endpoint", "event"), name="webhookdelivery_event_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="webhookdelivery",
            constraint=models.UniqueConstraint(
                condition=models.Q(("kind", "replay"), ("state", "pending")),
                fields=("replay_of",),
                name="webhookdelivery_one_replay_at_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="webhookdelivery",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("finished_at__isnull", True), ("next_attempt_at__isnull", False), ("state", "pending")),
                    models.Q(
                        models.Q(("state", "pending"), _negated=True),
                        ("finished_at__isnull", False),
                        ("leased_until__isnull", True),
                        ("next_attempt_at__isnull", True),
                    ),
                    _connector="OR",
                ),
                name="webhookdelivery_pending_has_a_time",
            ),
        ),
        migrations.RunSQL(FORWARDS, BACKWARDS),
    ]

from decimal import Decimal

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import iafactory.common.clock
import iafactory.common.ids


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0008_usage_units_and_choice"),
        ("routing", "0003_gatewaylimits"),
    ]

    operations = [
        migrations.CreateModel(
            name="HealthCheck",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("checked_at", models.DateTimeField(default=iafactory.common.clock.now)),
                ("ok", models.BooleanField()),
                ("latency_ms", models.PositiveIntegerField(blank=True, null=True)),
                ("failure", models.CharField(blank=True, help_text="Failure class, empty when it answered.", max_length=32)),
                ("detail", models.CharField(blank=True, max_length=500)),
            ],
            options={
                "ordering": ["-checked_at"],
            },
        ),
        migrations.AlterModelOptions(
            name="providercredential",
            options={"ordering": ["provider", "priority", "created_at"]},
        ),
        migrations.AddField(
            model_name="aimodel",
            name="margin_multiplier",
            field=models.DecimalField(
                blank=True,
                decimal_places=4,
                help_text="Instead of the plan's own. Empty: the plan's.",
                max_digits=8,
                null=True,
                validators=[django.core.validators.MinValueValidator(Decimal("0.0001"))],
            ),
        ),
        migrations.AddField(
            model_name="budget",
            name="monthly_limit_usd",
            field=models.DecimalField(
                blank=True,
                decimal_places=9,
                help_text="Empty: no limit.",
                max_digits=20,
                null=True,
                validators=[django.core.validators.MinValueValidator(Decimal("0"))],
            ),
        ),
        migrations.AddField(
            model_name="gatewaylimits",
            name="queue_seconds",
            field=models.PositiveSmallIntegerField(
                default=5, help_text="How long a call waits for a provider's capacity before it is refused; 0: not at all."
            ),
        ),
        migrations.AddField(
            model_name="modelprofile",
            name="concurrent_calls",
            field=models.PositiveIntegerField(blank=True, help_text="Calls under way at once, at most.", null=True),
        ),
        migrations.AddField(
            model_name="modelprofile",
            name="draining",
            field=models.BooleanField(default=False, help_text="Takes no new calls; those under way end by themselves."),
        ),
        migrations.AddField(
            model_name="modelprofile",
            name="reserved_for",
            field=models.ManyToManyField(
                blank=True,
                help_text="Only these accounts can call it. Empty: everybody.",
                related_name="+",
                to="billing.account",
            ),
        ),
        migrations.AddField(
            model_name="planrouting",
            name="deadline_seconds",
            field=models.PositiveSmallIntegerField(
                blank=True, help_text="Longest time for one call. Empty: the installation's.", null=True
            ),
        ),
        migrations.AddField(
            model_name="planrouting",
            name="expected_cost_usd",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text="Provider slug to the cost of a message in USD: an assumption of the economics.",
            ),
        ),
        migrations.AddField(
            model_name="planrouting",
            name="expected_messages",
            field=models.PositiveIntegerField(
                blank=True, help_text="Messages a month of one user: an assumption of the plan's economics.", null=True
            ),
        ),
        migrations.AddField(
            model_name="planrouting",
            name="most_attempts",
            field=models.PositiveSmallIntegerField(
                default=4,
                help_text="Providers asked for one call, at most.",
                validators=[django.core.validators.MinValueValidator(1)],
            ),
        ),
        migrations.AddField(
            model_name="planrouting",
            name="provider_pin_allowed",
            field=models.BooleanField(default=False, help_text="Whether a call may name the provider that has to serve it."),
        ),
        migrations.AddField(
            model_name="provider",
            name="concurrent_calls",
            field=models.PositiveIntegerField(blank=True, help_text="Calls under way at once, at most.", null=True),
        ),
        migrations.AddField(
            model_name="provider",
            name="draining",
            field=models.BooleanField(
                default=False, help_text="Takes no new calls; those under way end by themselves and health checks go on."
            ),
        ),
        migrations.AddField(
            model_name="provider",
            name="requests_per_minute",
            field=models.PositiveIntegerField(blank=True, help_text="The provider's cap for us.", null=True),
        ),
        migrations.AddField(
            model_name="providercredential",
            name="disabled_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="providercredential",
            name="priority",
            field=models.PositiveSmallIntegerField(default=100, help_text="Order of use; lower first."),
        ),
        migrations.AddField(
            model_name="providercredential",
            name="test_result",
            field=models.CharField(blank=True, editable=False, help_text="Empty: the last test passed.", max_length=200),
        ),
        migrations.AddField(
            model_name="providercredential",
            name="tested_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AlterField(
            model_name="budget",
            name="daily_limit_usd",
            field=models.DecimalField(
                blank=True,
                decimal_places=9,
                help_text="Empty: no limit.",
                max_digits=20,
                null=True,
                validators=[django.core.validators.MinValueValidator(Decimal("0"))],
            ),
        ),
        migrations.AlterField(
            model_name="provider",
            name="enabled",
            field=models.BooleanField(default=True, help_text="Switched off, its models disappear from the lists."),
        ),
        migrations.AddConstraint(
            model_name="aimodel",
            constraint=models.CheckConstraint(
                condition=models.Q(("margin_multiplier__isnull", True), ("margin_multiplier__gt", 0), _connector="OR"),
                name="model_margin_positive",
            ),
        ),
        migrations.AddConstraint(
            model_name="budget",
            constraint=models.CheckConstraint(
                condition=models.Q(("monthly_limit_usd__gte", 0)), name="budget_month_not_negative"
            ),
        ),
        migrations.AddConstraint(
            model_name="planrouting",
            constraint=models.CheckConstraint(
                condition=models.Q(("most_attempts__gte", 1)), name="planrouting_attempts_positive"
            ),
        ),
        migrations.AddField(
            model_name="healthcheck",
            name="profile",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="checks", to="routing.modelprofile"
            ),
        ),
        migrations.AddIndex(
            model_name="healthcheck",
            index=models.Index(fields=["profile", "-checked_at"], name="healthcheck_profile_at"),
        ),
        migrations.RunSQL(
            """
            CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON routing_modelprofile_reserved_for
                FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
            """,
            "DROP TRIGGER announce ON routing_modelprofile_reserved_for;",
        ),
    ]

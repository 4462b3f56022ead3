import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0020_webhooks_and_marketplace"),
    ]

    operations = [
        migrations.CreateModel(
            name="UsageDayState",
            fields=[
                ("day", models.DateField(primary_key=True, serialize=False)),
                ("calls", models.PositiveBigIntegerField(help_text="Calls of the day that were summed up.")),
                ("summed_at", models.DateTimeField()),
            ],
            options={
                "ordering": ["-day"],
            },
        ),
        migrations.CreateModel(
            name="UsageDay",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("day", models.DateField(help_text="UTC.")),
                ("api_key_id", models.UUIDField(blank=True, null=True)),
                ("subscription_id", models.UUIDField(blank=True, null=True)),
                ("plan", models.CharField(blank=True, max_length=64)),
                ("endpoint", models.CharField(max_length=64)),
                ("provider", models.CharField(blank=True, max_length=64)),
                ("model", models.CharField(blank=True, max_length=200)),
                ("calls", models.PositiveIntegerField()),
                ("calls_complete", models.PositiveIntegerField()),
                ("calls_failed", models.PositiveIntegerField(help_text="Provider error, or the serving process died.")),
                ("calls_fallback", models.PositiveIntegerField()),
                ("input_tokens", models.PositiveBigIntegerField()),
                ("cache_read_tokens", models.PositiveBigIntegerField()),
                ("output_tokens", models.PositiveBigIntegerField()),
                ("list_cost_usd", models.DecimalField(decimal_places=9, max_digits=20)),
                ("cost_usd", models.DecimalField(decimal_places=9, max_digits=20)),
                ("credits_charged", models.DecimalField(decimal_places=6, max_digits=20)),
                ("quota_units", models.PositiveIntegerField()),
                ("latency_ms", models.PositiveBigIntegerField(help_text="Sum over the calls that have one.")),
                ("latency_calls", models.PositiveIntegerField()),
                (
                    "account",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="usage_days",
                        to="billing.account",
                    ),
                ),
            ],
            options={
                "ordering": ["-day"],
                "indexes": [
                    models.Index(fields=["day"], name="usageday_day"),
                    models.Index(fields=["account", "day"], name="usageday_account_day"),
                ],
            },
        ),
    ]

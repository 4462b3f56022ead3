"""Who used most, and how many used anything, is read from one row per day and account; existing days are summed here."""

import django.db.models.deletion
from django.db import migrations, models

SUMS = (
    "calls",
    "calls_complete",
    "calls_failed",
    "calls_fallback",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "list_cost_usd",
    "cost_usd",
    "credits_charged",
    "quota_units",
    "latency_ms",
    "latency_calls",
)
FILL = f"""
    INSERT INTO billing_usagedayofaccount (day, account_id, {", ".join(SUMS)})
    SELECT day, account_id, {", ".join(f"sum({name})" for name in SUMS)} FROM billing_usageday GROUP BY day, account_id
"""  # noqa: S608  constant text


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0036_price_moves"),
    ]

    operations = [
        migrations.CreateModel(
            name="UsageDayOfAccount",
            fields=[
                ("day", models.DateField(help_text="UTC.")),
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
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "account",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="billing.account",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "usage days of accounts",
                "ordering": ["-day"],
                "abstract": False,
                "indexes": [
                    models.Index(fields=["day"], name="usagedayofaccount_day"),
                    models.Index(fields=["account", "day"], name="usagedayofaccount_account"),
                ],
            },
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]

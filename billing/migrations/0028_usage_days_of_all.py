"""Reports on the whole company read one row per day, plan, endpoint, provider and model; existing days are summed here."""

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
    INSERT INTO billing_usagedayofall (day, plan, endpoint, provider, model, {", ".join(SUMS)})
    SELECT day, plan, endpoint, provider, model, {", ".join(f"sum({name})" for name in SUMS)}
    FROM billing_usageday GROUP BY day, plan, endpoint, provider, model
"""  # noqa: S608  constant text


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0022_webhook_leases"),
    ]

    operations = [
        migrations.CreateModel(
            name="UsageDayOfAll",
            fields=[
                ("day", models.DateField(help_text="UTC.")),
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
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
            ],
            options={
                "verbose_name_plural": "usage days of all",
                "ordering": ["-day"],
                "abstract": False,
                "indexes": [models.Index(fields=["day"], name="usagedayofall_day")],
            },
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]

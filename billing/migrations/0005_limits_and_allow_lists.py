import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0004_ledger"),
    ]

    operations = [
        migrations.CreateModel(
            name="AccountLimits",
            fields=[
                (
                    "account",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="limits",
                        serialize=False,
                        to="billing.account",
                    ),
                ),
                ("requests_per_minute", models.PositiveIntegerField(blank=True, null=True)),
                ("requests_per_hour", models.PositiveIntegerField(blank=True, null=True)),
                ("requests_per_day", models.PositiveIntegerField(blank=True, null=True)),
                ("tokens_per_minute", models.PositiveIntegerField(blank=True, null=True)),
                ("concurrent_calls", models.PositiveIntegerField(blank=True, null=True)),
                (
                    "daily_limit",
                    models.DecimalField(
                        blank=True,
                        decimal_places=6,
                        help_text="Requests or credits a day, as the plan counts.",
                        max_digits=20,
                        null=True,
                    ),
                ),
                (
                    "until",
                    models.DateTimeField(blank=True, help_text="When these limits end; empty: until changed.", null=True),
                ),
                ("reason", models.CharField(max_length=200)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name": "account limits",
                "verbose_name_plural": "account limits",
            },
        ),
        migrations.AddField(
            model_name="account",
            name="blocked_until",
            field=models.DateTimeField(
                blank=True, help_text="A block that ends by itself; empty: until an operator ends it.", null=True
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="allowed_endpoints",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=64),
                blank=True,
                default=list,
                help_text="Paths such as /v1/chat/completions.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="allowed_models",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=200), blank=True, default=list, size=None
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="allowed_networks",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=43),
                blank=True,
                default=list,
                help_text="Addresses or CIDR networks.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="allowed_origins",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=200),
                blank=True,
                default=list,
                help_text="Origins of browsers that may use it.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="concurrent_calls",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="apikey",
            name="daily_credits",
            field=models.DecimalField(
                blank=True, decimal_places=6, help_text="Credits this key may spend a day.", max_digits=20, null=True
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="last_used_from",
            field=models.GenericIPAddressField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="apikey",
            name="monthly_credits",
            field=models.DecimalField(
                blank=True, decimal_places=6, help_text="Credits this key may spend a calendar month.", max_digits=20, null=True
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="requests_per_minute",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="apikey",
            name="tokens_per_minute",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="plan",
            name="requests_per_day",
            field=models.PositiveIntegerField(
                blank=True, help_text="A ceiling beside the daily limit, which counts credits on credits plans.", null=True
            ),
        ),
        migrations.AddField(
            model_name="plan",
            name="requests_per_hour",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="user",
            name="registered_from",
            field=models.GenericIPAddressField(blank=True, editable=False, null=True),
        ),
    ]

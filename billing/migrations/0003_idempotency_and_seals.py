"""Stored answers of idempotent calls, day seals and verification runs."""

import django.db.models.deletion
from django.db import migrations, models

import iafactory.common.crypto


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0002_usage_log"),
    ]

    operations = [
        migrations.CreateModel(
            name="BooksVerification",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("started_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField()),
                ("passed", models.BooleanField()),
                ("checks", models.JSONField(default=list, help_text="Each check with its first differences.")),
            ],
            options={
                "ordering": ["-started_at"],
            },
        ),
        migrations.CreateModel(
            name="DaySeal",
            fields=[
                ("day", models.DateField(primary_key=True, serialize=False)),
                ("transactions", models.PositiveIntegerField()),
                ("entries", models.PositiveIntegerField()),
                ("content_hash", models.CharField(help_text="SHA-256 over the day's transactions and entries.", max_length=64)),
                (
                    "seal",
                    models.CharField(help_text="SHA-256 over the seal of the day before and the content hash.", max_length=64),
                ),
                ("sealed_at", models.DateTimeField()),
            ],
            options={
                "ordering": ["-day"],
            },
        ),
        migrations.AlterField(
            model_name="ledgeraccount",
            name="kind",
            field=models.CharField(
                choices=[
                    ("wallet", "Wallet"),
                    ("debt", "Debt"),
                    ("issued", "Issued credits"),
                    ("consumed", "Consumed credits"),
                    ("expired", "Expired credits"),
                    ("refunded", "Refunded credits"),
                    ("operator_loss", "Operator loss"),
                    ("unknown_cost", "Unknown cost"),
                    ("provider_cost", "Provider cost of unpaid calls"),
                    ("cash", "Cash"),
                    ("receivable", "Receivable"),
                    ("revenue", "Revenue"),
                    ("tax", "Tax"),
                    ("refunds", "Refunds"),
                    ("unapplied", "Unapplied money"),
                ],
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="ledgertransaction",
            name="kind",
            field=models.CharField(
                choices=[
                    ("call", "Call"),
                    ("reaped", "Call whose process died"),
                    ("grant", "Grant"),
                    ("consume", "Consumption"),
                    ("expiry", "Expiry"),
                    ("void", "Void"),
                    ("refund", "Refund"),
                    ("dispute", "Dispute"),
                    ("correction", "Correction"),
                ],
                max_length=16,
            ),
        ),
        migrations.CreateModel(
            name="StoredAnswer",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        help_text="The request id of the call that was charged.", primary_key=True, serialize=False
                    ),
                ),
                ("key", models.CharField(max_length=255)),
                ("body_hash", models.CharField(help_text="SHA-256 of address and body, hexadecimal.", max_length=64)),
                ("status", models.PositiveSmallIntegerField()),
                ("headers", models.JSONField(blank=True, default=dict)),
                ("content", iafactory.common.crypto.EncryptedTextField(blank=True, null=True)),
                ("expires_at", models.DateTimeField(db_index=True)),
                (
                    "account",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="billing.account",
                    ),
                ),
                (
                    "api_key",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="billing.apikey",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("account", "api_key", "key"), name="storedanswer_key_unique", nulls_distinct=False
                    )
                ],
            },
        ),
    ]

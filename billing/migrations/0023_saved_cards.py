"""Cards that customers let us keep, what they agreed to, and what reminders tell beside the invoice."""

import django.db.models.deletion
from django.db import migrations, models

import iafactory.common.ids


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0030_invitations_and_time_zones"),
    ]

    operations = [
        migrations.AddField(
            model_name="dunningnotice",
            name="facts",
            field=models.JSONField(blank=True, default=dict, help_text="What the mail tells beside the invoice."),
        ),
        migrations.CreateModel(
            name="SavedCard",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("gateway", models.CharField(max_length=32)),
                ("mode", models.CharField(max_length=8)),
                ("gateway_customer_id", models.CharField(max_length=128)),
                ("gateway_card_id", models.CharField(max_length=128)),
                ("brand", models.CharField(blank=True, max_length=32)),
                ("last4", models.CharField(blank=True, max_length=4)),
                ("exp_month", models.PositiveSmallIntegerField(blank=True, null=True)),
                ("exp_year", models.PositiveSmallIntegerField(blank=True, null=True)),
                ("saved_at", models.DateTimeField()),
                ("removed_at", models.DateTimeField(blank=True, help_text="From then on it is never charged.", null=True)),
                ("removed_reason", models.CharField(blank=True, max_length=300)),
                ("detached_at", models.DateTimeField(blank=True, help_text="When the gateway forgot it.", null=True)),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="saved_cards", to="billing.account"
                    ),
                ),
            ],
            options={
                "ordering": ["-saved_at"],
            },
        ),
        migrations.CreateModel(
            name="AutoRenewalConsent",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("wording_version", models.CharField(help_text="Which text was agreed to.", max_length=32)),
                ("language", models.CharField(max_length=8)),
                ("agreed_at", models.DateTimeField()),
                ("agreed_by", models.CharField(blank=True, max_length=254)),
                ("withdrawn_at", models.DateTimeField(blank=True, null=True)),
                ("withdrawn_by", models.CharField(blank=True, max_length=254)),
                ("withdrawn_reason", models.CharField(blank=True, max_length=300)),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="auto_renewal_consents", to="billing.account"
                    ),
                ),
                (
                    "payment",
                    models.OneToOneField(
                        blank=True,
                        help_text="At whose checkout it was given.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="consent",
                        to="billing.payment",
                    ),
                ),
                (
                    "card",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="consents",
                        to="billing.savedcard",
                    ),
                ),
            ],
            options={
                "ordering": ["-agreed_at"],
            },
        ),
        migrations.AddField(
            model_name="payment",
            name="saved_card",
            field=models.ForeignKey(
                blank=True,
                help_text="Charged without the customer, who agreed to it.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="payments",
                to="billing.savedcard",
            ),
        ),
        migrations.AddIndex(
            model_name="payment",
            index=models.Index(
                condition=models.Q(("saved_card__isnull", False)),
                fields=["invoice", "-created_at"],
                name="payment_saved_card_charges",
            ),
        ),
        migrations.AddIndex(
            model_name="savedcard",
            index=models.Index(
                condition=models.Q(("detached_at__isnull", True), ("removed_at__isnull", False)),
                fields=["removed_at"],
                name="savedcard_to_detach",
            ),
        ),
        migrations.AddConstraint(
            model_name="savedcard",
            constraint=models.UniqueConstraint(fields=("gateway", "mode", "gateway_card_id"), name="savedcard_unique"),
        ),
        migrations.AddConstraint(
            model_name="savedcard",
            constraint=models.CheckConstraint(
                condition=models.Q(("detached_at__isnull", True), ("removed_at__isnull", False), _connector="OR"),
                name="savedcard_removed_before_detached",
            ),
        ),
        migrations.AddConstraint(
            model_name="autorenewalconsent",
            constraint=models.UniqueConstraint(
                condition=models.Q(("card__isnull", False), ("withdrawn_at__isnull", True)),
                fields=("account",),
                name="autorenewalconsent_one_in_force",
            ),
        ),
    ]

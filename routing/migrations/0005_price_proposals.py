import django.db.models.deletion
from django.db import migrations, models

import iafactory.common.clock
import iafactory.common.ids


class Migration(migrations.Migration):
    dependencies = [
        ("routing", "0004_health_budgets_and_assumptions"),
    ]

    operations = [
        migrations.CreateModel(
            name="PriceProposal",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("source", models.CharField(help_text="The file the prices came from.", max_length=200)),
                (
                    "state",
                    models.CharField(
                        choices=[("open", "To be reviewed"), ("applied", "Applied"), ("closed", "Closed, nothing applied")],
                        default="open",
                        max_length=16,
                    ),
                ),
                ("unchanged", models.PositiveIntegerField(default=0, help_text="Profiles whose price is the file's.")),
                (
                    "unknown",
                    models.JSONField(blank=True, default=list, help_text="Entries of the file that no profile stands for."),
                ),
                ("created_at", models.DateTimeField(default=iafactory.common.clock.now, editable=False)),
                ("closed_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ["-created_at"],
            },
        ),
        migrations.CreateModel(
            name="PriceProposalLine",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[("new", "New: no price so far"), ("changed", "Changed"), ("missing", "Not in the file")],
                        max_length=8,
                    ),
                ),
                ("prices", models.JSONField(default=dict, help_text="The whole price proposed, as decimal strings.")),
                ("differences", models.JSONField(default=list, help_text="Field by field: before, after and percent.")),
                ("warnings", models.JSONField(default=list, help_text="Why an operator should look twice.")),
                ("source", models.CharField(blank=True, max_length=200)),
                (
                    "applied",
                    models.OneToOneField(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="proposed_by",
                        to="routing.modelprice",
                    ),
                ),
                (
                    "present",
                    models.ForeignKey(
                        help_text="The price in force then.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="routing.modelprice",
                    ),
                ),
                (
                    "profile",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="routing.modelprofile"),
                ),
                (
                    "proposal",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="lines", to="routing.priceproposal"
                    ),
                ),
            ],
            options={
                "ordering": ["proposal", "profile__slug"],
                "constraints": [models.UniqueConstraint(fields=("proposal", "profile"), name="proposalline_unique")],
            },
        ),
    ]

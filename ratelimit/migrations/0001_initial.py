from django.db import migrations, models

import iafactory.common.clock
import iafactory.common.ids
import ratelimit.models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="NetworkBlock",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                (
                    "network",
                    models.CharField(
                        help_text="An address or a CIDR network, v4 or v6.",
                        max_length=43,
                        unique=True,
                        validators=[ratelimit.models.validate_network],
                    ),
                ),
                ("reason", models.CharField(max_length=200)),
                ("created_at", models.DateTimeField(default=iafactory.common.clock.now, editable=False)),
                ("expires_at", models.DateTimeField(blank=True, help_text="Empty: until removed.", null=True)),
                ("created_by", models.CharField(blank=True, editable=False, max_length=254)),
            ],
            options={
                "ordering": ["-created_at"],
            },
        ),
        migrations.CreateModel(
            name="AbuseSignal",
            fields=[
                ("id", models.UUIDField(default=iafactory.common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("subject", models.CharField(help_text="`account:<id>`, `key:<id>` or `address:<ip>`.", max_length=100)),
                ("signal", models.CharField(help_text="What was seen, such as `messages_a_day`.", max_length=64)),
                ("evidence", models.JSONField(default=dict, help_text="The figures behind it; never a prompt.")),
                ("first_seen_at", models.DateTimeField(default=iafactory.common.clock.now)),
                ("last_seen_at", models.DateTimeField(default=iafactory.common.clock.now)),
                ("until", models.DateTimeField(blank=True, help_text="When it stops to matter unless seen again.", null=True)),
                (
                    "state",
                    models.CharField(
                        choices=[("open", "Open"), ("acted", "Acted on"), ("dismissed", "Dismissed")],
                        default="open",
                        max_length=16,
                    ),
                ),
                ("closed_at", models.DateTimeField(blank=True, null=True)),
                ("closed_reason", models.CharField(blank=True, max_length=200)),
            ],
            options={
                "ordering": ["-last_seen_at"],
                "indexes": [models.Index(fields=["state", "-last_seen_at"], name="abusesignal_state_seen")],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state", "open")), fields=("subject", "signal"), name="abusesignal_one_open"
                    )
                ],
            },
        ),
    ]

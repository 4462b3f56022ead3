from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("routing", "0002_guards"),
    ]

    operations = [
        migrations.CreateModel(
            name="GatewayLimits",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, editable=False, primary_key=True, serialize=False)),
                ("requests_per_minute", models.PositiveIntegerField(blank=True, null=True)),
                ("concurrent_calls", models.PositiveIntegerField(blank=True, null=True)),
            ],
            options={
                "verbose_name": "gateway limits",
                "verbose_name_plural": "gateway limits",
                "constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="gatewaylimits_one_row")],
            },
        ),
        migrations.RunSQL(
            """
            CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON routing_gatewaylimits
                FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
            """,
            "DROP TRIGGER announce ON routing_gatewaylimits;",
        ),
    ]

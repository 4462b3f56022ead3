"""The running day is summed up as far as it is closed."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0032_usage_filters"),
    ]

    operations = [
        migrations.AddField(
            model_name="usagedaystate",
            name="summed_until",
            field=models.DateTimeField(help_text="Of the running day: what began before. Empty: all of the day.", null=True),
        ),
    ]

"""Messages under way are found without reading those that wait."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0021_usage_days")]

    operations = [
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(
                condition=models.Q(("leased_until__isnull", False)), fields=["leased_until"], name="webhookdelivery_leased"
            ),
        ),
    ]

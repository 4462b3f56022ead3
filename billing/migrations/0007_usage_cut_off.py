from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_announce_limits"),
    ]

    operations = [
        migrations.AlterField(
            model_name="usagerecord",
            name="end",
            field=models.CharField(
                choices=[
                    ("complete", "Complete"),
                    ("client_gone", "Client hung up"),
                    ("upstream_dropped", "Provider dropped the stream"),
                    ("provider_error", "Provider error, nothing delivered"),
                    ("refused", "Refused by us before the provider was called"),
                    ("process_died", "The serving process died"),
                    ("cut_off", "Cut off: key revoked or account blocked"),
                ],
                max_length=16,
            ),
        ),
    ]

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0007_usage_cut_off"),
    ]

    operations = [
        migrations.AddField(
            model_name="usagerecord",
            name="choice",
            field=models.JSONField(blank=True, help_text="Who could have served the call, and why this one did.", null=True),
        ),
        migrations.AddField(
            model_name="usagerecord",
            name="units",
            field=models.JSONField(
                blank=True, help_text="What was billed beside tokens: images, characters, seconds…", null=True
            ),
        ),
    ]

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("routing", "0006_profilehealth")]

    operations = [
        migrations.AlterField(
            model_name="planrouting",
            name="score_weights",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text="For the score strategy: w1 / ms to the first byte + w2 x free capacity (0 to 1) - w3 x USD per 1,000 tokens + w4 x priority / 100.",
            ),
        ),
    ]

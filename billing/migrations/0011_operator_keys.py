import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0010_issued_invoices_stand"),
    ]

    operations = [
        migrations.AlterField(
            model_name="apikey",
            name="scopes",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(
                    choices=[
                        ("inference", "Call models"),
                        ("billing:read", "Read balance and usage"),
                        ("credits:read", "Service: check credits"),
                        ("credits:write", "Service: consume and hold credits"),
                        ("credits:admin", "Service: grant due credits"),
                        ("admin", "Operator: what its owner may do in the console"),
                    ],
                    max_length=32,
                ),
                default=list,
                size=None,
            ),
        ),
    ]

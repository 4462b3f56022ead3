from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("routing", "0005_price_proposals")]

    operations = [
        migrations.CreateModel(
            name="ProfileHealth",
            fields=[],
            options={
                "verbose_name": "route's health",
                "verbose_name_plural": "routes' health",
                "permissions": [("operate_profilehealth", "Can check, open, close and drain routes")],
                "proxy": True,
                "default_permissions": ("view",),
                "indexes": [],
                "constraints": [],
            },
            bases=("routing.modelprofile",),
        ),
    ]

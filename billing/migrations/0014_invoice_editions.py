"""An invoice is printed once more when it is paid or voided; what is still to be mailed is found by an index."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("billing", "0013_running_stretch")]

    operations = [
        migrations.AlterModelOptions(
            name="invoice",
            options={
                "ordering": ["-created_at"],
                "permissions": [
                    ("finalise_invoice", "Can finalise drafts of invoices"),
                    ("void_invoice", "Can void invoices"),
                    ("writeoff_invoice", "Can write invoices off"),
                    ("credit_invoice", "Can issue credit notes"),
                    ("mail_invoice", "Can have invoices mailed again"),
                ],
            },
        ),
        migrations.RemoveConstraint(model_name="invoicepdf", name="invoicepdf_unique"),
        migrations.AddField(
            model_name="invoicepdf",
            name="edition",
            field=models.CharField(
                choices=[
                    ("issued", "As issued"),
                    ("paid", "Paid: with means and date of the payment"),
                    ("void", "Voided: marked as worth nothing"),
                ],
                default="issued",
                max_length=8,
            ),
        ),
        migrations.AddConstraint(
            model_name="invoicepdf",
            constraint=models.UniqueConstraint(fields=["invoice", "language", "edition"], name="invoicepdf_unique"),
        ),
        migrations.AddIndex(
            model_name="invoice",
            index=models.Index(
                condition=Q(mailed_at__isnull=True, issued_at__isnull=False), fields=["issued_at"], name="invoice_unmailed"
            ),
        ),
    ]

"""The Celery application: what must happen is a row in PostgreSQL, a task only makes it happen sooner."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "iafactory.settings")

app = Celery("iafactory")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(
    [
        "billing.ledger",
        "billing.accounts",
        "billing.abuse",
        "billing.invoices",
        "billing.notices",
        "billing.payments",
        "billing.payments.inbox",
        "billing.payments.reconciliation",
        "billing.subscriptions",
        "billing.webhooks",
        "dashboard.alerts",
        "routing",
    ]
)

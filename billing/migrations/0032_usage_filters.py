"""Every filter of the list of calls has an index, so that what is rare is found without reading the log.

Not one transaction: built partition by partition beside running calls, as in 0029.
"""

from typing import Any

from django.db import migrations, models

# Name to what is indexed beside `started_at`, and of which rows.
INDEXES = {
    "usage_key_started": ("api_key_id, ", ""),
    "usage_plan_started": ("plan, ", ""),
    "usage_end_started": ('"end", ', """ WHERE "end" <> 'complete'"""),
    "usage_fallback": ("", " WHERE fallback"),
    "usage_budget_fallback": ("", " WHERE budget_fallback"),
    "usage_estimated": ("", " WHERE estimated"),
}


def indexes_build(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'billing_usagerecord'::regclass")
        partitions = [name for (name,) in cursor.fetchall()]
        for index, (columns, rows) in INDEXES.items():
            what = f"({columns}started_at DESC){rows}"
            cursor.execute(f"CREATE INDEX IF NOT EXISTS {index} ON ONLY billing_usagerecord {what}")
            for partition in partitions:
                part = f"{partition}_{index.removeprefix('usage_')}"
                cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [part])
                row = cursor.fetchone()
                if row is not None and not row[0]:
                    cursor.execute(f"DROP INDEX CONCURRENTLY {part}")
                cursor.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {part} ON {partition} {what}")
                cursor.execute(f"ALTER INDEX {index} ATTACH PARTITION {part}")


def indexes_drop(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        for index in INDEXES:
            cursor.execute(f"DROP INDEX IF EXISTS {index}")


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("billing", "0027_customer_notices"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(indexes_build, indexes_drop)],
            state_operations=[
                migrations.AddIndex(
                    model_name="usagerecord", index=models.Index(fields=["api_key", "-started_at"], name="usage_key_started")
                ),
                migrations.AddIndex(
                    model_name="usagerecord", index=models.Index(fields=["plan", "-started_at"], name="usage_plan_started")
                ),
                migrations.AddIndex(
                    model_name="usagerecord",
                    index=models.Index(
                        condition=~models.Q(("end", "complete")), fields=["end", "-started_at"], name="usage_end_started"
                    ),
                ),
                migrations.AddIndex(
                    model_name="usagerecord",
                    index=models.Index(condition=models.Q(("fallback", True)), fields=["-started_at"], name="usage_fallback"),
                ),
                migrations.AddIndex(
                    model_name="usagerecord",
                    index=models.Index(
                        condition=models.Q(("budget_fallback", True)), fields=["-started_at"], name="usage_budget_fallback"
                    ),
                ),
                migrations.AddIndex(
                    model_name="usagerecord",
                    index=models.Index(condition=models.Q(("estimated", True)), fields=["-started_at"], name="usage_estimated"),
                ),
            ],
        ),
    ]

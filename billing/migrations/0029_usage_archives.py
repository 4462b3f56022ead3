"""The usage log's months move to files; it is found by model and by provider, too.

Not one transaction: the indexes are built partition by partition beside running calls, and a run that was cut off goes on.
"""

from typing import Any

from django.db import migrations, models

INDEXES = {"usage_model_started": "model", "usage_provider_started": "provider"}

GUARDS = """
-- What was cut off from the log is explained by its row alone: the figures stay, and so does the row.
CREATE FUNCTION usage_archive_stands() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_moves text[] := ARRAY['state', 'detached_at', 'dropped_at', 'restored_at'];
BEGIN
    IF OLD.state IN ('dropped', 'restored') AND TG_OP = 'DELETE'
       OR OLD.state IN ('detached', 'dropped', 'restored') AND TG_OP = 'UPDATE'
       AND to_jsonb(NEW) - v_moves IS DISTINCT FROM to_jsonb(OLD) - v_moves
    THEN
        RAISE EXCEPTION 'the archive of % stands', OLD.month USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;

CREATE TRIGGER archive_stands BEFORE UPDATE OR DELETE ON billing_usagearchive
    FOR EACH ROW EXECUTE FUNCTION usage_archive_stands();
CREATE TRIGGER append_only BEFORE TRUNCATE ON billing_usagearchive
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""
UNGUARD = """
DROP TRIGGER append_only ON billing_usagearchive;
DROP TRIGGER archive_stands ON billing_usagearchive;
DROP FUNCTION usage_archive_stands();
"""


def indexes_build(apps: Any, schema_editor: Any) -> None:
    """PostgreSQL builds no index of a partitioned table concurrently: its parts one by one, then joined."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'billing_usagerecord'::regclass")
        partitions = [name for (name,) in cursor.fetchall()]
        for index, column in INDEXES.items():
            cursor.execute(f"CREATE INDEX IF NOT EXISTS {index} ON ONLY billing_usagerecord ({column}, started_at DESC)")
            for partition in partitions:
                part = f"{partition}_{column}_started"
                cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [part])
                row = cursor.fetchone()
                if row is not None and not row[0]:
                    cursor.execute(f"DROP INDEX CONCURRENTLY {part}")
                cursor.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {part} ON {partition} ({column}, started_at DESC)")
                cursor.execute(f"ALTER INDEX {index} ATTACH PARTITION {part}")


def indexes_drop(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        for index in INDEXES:
            cursor.execute(f"DROP INDEX IF EXISTS {index}")


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("billing", "0025_reconciliation"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(indexes_build, indexes_drop)],
            state_operations=[
                migrations.AddIndex(
                    model_name="usagerecord", index=models.Index(fields=["model", "-started_at"], name="usage_model_started")
                ),
                migrations.AddIndex(
                    model_name="usagerecord",
                    index=models.Index(fields=["provider", "-started_at"], name="usage_provider_started"),
                ),
            ],
        ),
        migrations.CreateModel(
            name="UsageArchive",
            fields=[
                ("month", models.DateField(help_text="Its first day, UTC.", primary_key=True, serialize=False)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("written", "File written"),
                            ("verified", "File read back and compared"),
                            ("detached", "Cut off from the log"),
                            ("dropped", "Only in the file"),
                            ("restored", "Back in the log"),
                        ],
                        default="written",
                        max_length=16,
                    ),
                ),
                ("file", models.CharField(help_text="Name in the archive folder.", max_length=64)),
                ("file_bytes", models.PositiveBigIntegerField()),
                ("file_sha256", models.CharField(max_length=64)),
                ("content_sha256", models.CharField(help_text="Of the file before compression.", max_length=64)),
                ("rows", models.PositiveBigIntegerField()),
                (
                    "calls",
                    models.PositiveBigIntegerField(
                        help_text="Rows that the ledger books as calls: all but those of dead processes."
                    ),
                ),
                ("credits_charged", models.DecimalField(decimal_places=6, max_digits=26)),
                ("list_cost_usd", models.DecimalField(decimal_places=9, max_digits=26)),
                ("cost_usd", models.DecimalField(decimal_places=9, max_digits=26)),
                (
                    "digest",
                    models.DecimalField(
                        decimal_places=0, help_text="Sum over the calls of a hash of id, account and credits.", max_digits=40
                    ),
                ),
                ("last_booked_at", models.DateTimeField(help_text="When the ledger booked the last of the calls.", null=True)),
                ("sealed_day", models.DateField(help_text="The month's last day.")),
                ("seal", models.CharField(help_text="The seal of that day.", max_length=64)),
                ("previous", models.CharField(help_text="The checkpoint of the month archived before.", max_length=64)),
                ("checkpoint", models.CharField(max_length=64)),
                ("written_at", models.DateTimeField()),
                ("verified_at", models.DateTimeField(null=True)),
                ("detached_at", models.DateTimeField(null=True)),
                ("dropped_at", models.DateTimeField(null=True)),
                ("restored_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ["-month"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("month__day", 1)), name="usagearchive_month_begins"),
                    models.CheckConstraint(
                        condition=models.Q(("calls__lte", models.F("rows"))), name="usagearchive_calls_are_rows"
                    ),
                ],
            },
        ),
        migrations.RunSQL(GUARDS, UNGUARD),
    ]

"""The usage log, partitioned by month of `started_at`.

Django sees `id` as the key, SQL has (id, started_at): no foreign key points to a partitioned log, and uniqueness of a request
lives on holds and ledger transactions. Rows outside the months made so far fall into the default partition.
"""

from decimal import Decimal

import django.db.models.deletion
from django.db import migrations, models

FORWARDS = """
CREATE TABLE billing_usagerecord (
    id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    account_id uuid NOT NULL,
    api_key_id uuid,
    subscription_id uuid,
    plan varchar(64) NOT NULL,
    endpoint varchar(64) NOT NULL,
    "end" varchar(16) NOT NULL,
    error_code varchar(64) NOT NULL,
    requested_model varchar(200) NOT NULL,
    model varchar(200) NOT NULL,
    provider varchar(64) NOT NULL,
    profile varchar(200) NOT NULL,
    streamed boolean NOT NULL,
    attempts smallint NOT NULL CHECK (attempts >= 0),
    fallback boolean NOT NULL,
    budget_fallback boolean NOT NULL,
    input_tokens integer NOT NULL CHECK (input_tokens >= 0),
    cache_read_tokens integer NOT NULL CHECK (cache_read_tokens >= 0),
    cache_write_tokens integer NOT NULL CHECK (cache_write_tokens >= 0),
    output_tokens integer NOT NULL CHECK (output_tokens >= 0),
    reasoning_tokens integer NOT NULL CHECK (reasoning_tokens >= 0),
    estimated boolean NOT NULL,
    list_cost_usd numeric(20, 9) NOT NULL CHECK (list_cost_usd >= 0),
    cost_usd numeric(20, 9) NOT NULL CHECK (cost_usd >= 0),
    credits_held numeric(20, 6) NOT NULL CHECK (credits_held >= 0),
    credits_charged numeric(20, 6) NOT NULL CHECK (credits_charged >= 0),
    credits_lost numeric(20, 6) NOT NULL CHECK (credits_lost >= 0),
    quota_units smallint NOT NULL CHECK (quota_units >= 0),
    price jsonb NOT NULL,
    latency_ms integer CHECK (latency_ms >= 0),
    first_byte_ms integer CHECK (first_byte_ms >= 0),
    PRIMARY KEY (id, started_at)
) PARTITION BY RANGE (started_at);

CREATE TABLE billing_usagerecord_default PARTITION OF billing_usagerecord DEFAULT;

-- The partition of the month that `at` falls into (UTC); true when it was made now. Rows that already fell into the default
-- partition for that month move over.
CREATE FUNCTION usage_partition_ensure(at timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    first timestamptz := date_trunc('month', at, 'UTC');
    next timestamptz := date_trunc('month', first + interval '40 days', 'UTC');
    name text := 'billing_usagerecord_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('usage_partition_ensure'));
    IF to_regclass(name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE billing_usagerecord INCLUDING ALL)', name);
    EXECUTE format(
        'WITH moved AS (DELETE FROM billing_usagerecord_default WHERE started_at >= %L AND started_at < %L RETURNING *)
         INSERT INTO %I SELECT * FROM moved', first, next, name);
    EXECUTE format(
        'ALTER TABLE billing_usagerecord ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, first, next);
    RETURN true;
END $$;
"""

BACKWARDS = """
DROP FUNCTION usage_partition_ensure(timestamptz);
DROP TABLE billing_usagerecord;
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(FORWARDS, BACKWARDS)],
            state_operations=[
                migrations.CreateModel(
                    name="UsageRecord",
                    fields=[
                        ("id", models.UUIDField(help_text="The request id.", primary_key=True, serialize=False)),
                        ("started_at", models.DateTimeField()),
                        ("finished_at", models.DateTimeField()),
                        ("subscription_id", models.UUIDField(blank=True, null=True)),
                        ("plan", models.CharField(blank=True, help_text="Plan code at that time.", max_length=64)),
                        ("endpoint", models.CharField(max_length=64)),
                        (
                            "end",
                            models.CharField(
                                choices=[
                                    ("complete", "Complete"),
                                    ("client_gone", "Client hung up"),
                                    ("upstream_dropped", "Provider dropped the stream"),
                                    ("provider_error", "Provider error, nothing delivered"),
                                    ("refused", "Refused by us before the provider was called"),
                                    ("process_died", "The serving process died"),
                                ],
                                max_length=16,
                            ),
                        ),
                        ("error_code", models.CharField(blank=True, max_length=64)),
                        ("requested_model", models.CharField(blank=True, max_length=200)),
                        ("model", models.CharField(blank=True, max_length=200)),
                        ("provider", models.CharField(blank=True, max_length=64)),
                        (
                            "profile",
                            models.CharField(blank=True, help_text="Model profile that served the call.", max_length=200),
                        ),
                        ("streamed", models.BooleanField(default=False)),
                        ("attempts", models.PositiveSmallIntegerField(default=0)),
                        ("fallback", models.BooleanField(default=False, help_text="Not the first choice served it.")),
                        (
                            "budget_fallback",
                            models.BooleanField(default=False, help_text="A spent budget left only free profiles."),
                        ),
                        (
                            "input_tokens",
                            models.PositiveIntegerField(default=0, help_text="All input tokens, cached ones included."),
                        ),
                        ("cache_read_tokens", models.PositiveIntegerField(default=0)),
                        ("cache_write_tokens", models.PositiveIntegerField(default=0)),
                        (
                            "output_tokens",
                            models.PositiveIntegerField(default=0, help_text="All output tokens, reasoning included."),
                        ),
                        ("reasoning_tokens", models.PositiveIntegerField(default=0)),
                        (
                            "estimated",
                            models.BooleanField(
                                default=False, help_text="Tokens were estimated: the provider did not report them."
                            ),
                        ),
                        (
                            "list_cost_usd",
                            models.DecimalField(
                                decimal_places=9, default=Decimal("0"), help_text="At list price.", max_digits=20
                            ),
                        ),
                        (
                            "cost_usd",
                            models.DecimalField(
                                decimal_places=9,
                                default=Decimal("0"),
                                help_text="What the provider charges us.",
                                max_digits=20,
                            ),
                        ),
                        ("credits_held", models.DecimalField(decimal_places=6, default=Decimal("0"), max_digits=20)),
                        ("credits_charged", models.DecimalField(decimal_places=6, default=Decimal("0"), max_digits=20)),
                        (
                            "credits_lost",
                            models.DecimalField(
                                decimal_places=6,
                                default=Decimal("0"),
                                help_text="Price beyond the hold that the balance could not cover.",
                                max_digits=20,
                            ),
                        ),
                        (
                            "quota_units",
                            models.PositiveSmallIntegerField(default=0, help_text="Requests counted against the plan's quota."),
                        ),
                        (
                            "price",
                            models.JSONField(
                                blank=True, default=dict, help_text="Prices, margin and credit value that were used."
                            ),
                        ),
                        ("latency_ms", models.PositiveIntegerField(blank=True, null=True)),
                        ("first_byte_ms", models.PositiveIntegerField(blank=True, null=True)),
                        (
                            "account",
                            models.ForeignKey(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="usage",
                                to="billing.account",
                            ),
                        ),
                        (
                            "api_key",
                            models.ForeignKey(
                                blank=True,
                                db_constraint=False,
                                null=True,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="usage",
                                to="billing.apikey",
                            ),
                        ),
                    ],
                    options={
                        "ordering": ["-started_at"],
                    },
                ),
            ],
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(fields=["account", "-started_at"], name="usage_account_started"),
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(fields=["-started_at"], name="usage_started"),
        ),
    ]

"""An invoice that was issued is never edited, whoever writes; what tells how money moved is append-only."""

from django.db import migrations

FORWARDS = """
CREATE FUNCTION invoice_stands() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'draft' THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'invoice % was issued: it stays', OLD.number USING ERRCODE = 'restrict_violation';
    END IF;
    IF (OLD.kind, OLD.purpose, OLD.account_id, OLD.seller_id, OLD.seller_code, OLD.number, OLD.fiscal_year, OLD.sequence,
        OLD.corrects_id, OLD.subscription_id, OLD.period_start, OLD.period_end, OLD.currency, OLD.net, OLD.tax_total,
        OLD.stamp_total, OLD.rounding_total, OLD.total, OLD.fx_rate, OLD.language, OLD.seller_snapshot, OLD.customer_snapshot,
        OLD.tax_snapshot, OLD.issued_at, OLD.issue_date, OLD.created_at)
       IS DISTINCT FROM
       (NEW.kind, NEW.purpose, NEW.account_id, NEW.seller_id, NEW.seller_code, NEW.number, NEW.fiscal_year, NEW.sequence,
        NEW.corrects_id, NEW.subscription_id, NEW.period_start, NEW.period_end, NEW.currency, NEW.net, NEW.tax_total,
        NEW.stamp_total, NEW.rounding_total, NEW.total, NEW.fx_rate, NEW.language, NEW.seller_snapshot, NEW.customer_snapshot,
        NEW.tax_snapshot, NEW.issued_at, NEW.issue_date, NEW.created_at)
    THEN
        RAISE EXCEPTION 'invoice % was issued: it is corrected by a credit note', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION invoice_line_stands() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT state FROM billing_invoice WHERE id = coalesce(OLD.invoice_id, NEW.invoice_id)) <> 'draft' THEN
        RAISE EXCEPTION 'the lines of an issued invoice stay' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER issued_stands BEFORE UPDATE OR DELETE ON billing_invoice
    FOR EACH ROW EXECUTE FUNCTION invoice_stands();
CREATE TRIGGER issued_stands BEFORE INSERT OR UPDATE OR DELETE ON billing_invoiceline
    FOR EACH ROW EXECUTE FUNCTION invoice_line_stands();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_invoicepdf
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_moneybalanceentry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_paymentallocation
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON billing_paymenteffect
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What ran before there were payments was granted without one.
UPDATE billing_subscription SET paid_through = current_period_end WHERE state IN ('trialing', 'active');
"""

BACKWARDS = """
DROP TRIGGER append_only ON billing_paymenteffect;
DROP TRIGGER append_only ON billing_paymentallocation;
DROP TRIGGER append_only ON billing_moneybalanceentry;
DROP TRIGGER append_only ON billing_invoicepdf;
DROP TRIGGER issued_stands ON billing_invoiceline;
DROP TRIGGER issued_stands ON billing_invoice;
DROP FUNCTION invoice_line_stands();
DROP FUNCTION invoice_stands();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0009_sales")]

    operations = [migrations.RunSQL(FORWARDS, BACKWARDS)]

"""List prices are write-once; a change of anything that routing reads is announced to the web processes."""

from django.db import migrations

FORWARDS = """
CREATE TRIGGER write_once BEFORE UPDATE OR DELETE OR TRUNCATE ON routing_modelprice
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON routing_provider
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON routing_providercredential
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON routing_aimodel
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON routing_modelprofile
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
CREATE TRIGGER announce AFTER INSERT ON routing_modelprice
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON routing_planrouting
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON routing_budget
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('routes');
"""

BACKWARDS = """
DROP TRIGGER write_once ON routing_modelprice;
DROP TRIGGER announce ON routing_provider;
DROP TRIGGER announce ON routing_providercredential;
DROP TRIGGER announce ON routing_aimodel;
DROP TRIGGER announce ON routing_modelprofile;
DROP TRIGGER announce ON routing_modelprice;
DROP TRIGGER announce ON routing_planrouting;
DROP TRIGGER announce ON routing_budget;
"""


class Migration(migrations.Migration):
    dependencies = [("routing", "0001_initial"), ("billing", "0004_ledger")]

    operations = [migrations.RunSQL(FORWARDS, BACKWARDS)]

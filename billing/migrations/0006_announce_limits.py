"""Changes of limits, allow lists and network blocks reach the web processes like every other change."""

from django.db import migrations

FORWARDS = """
DROP TRIGGER announce ON billing_apikey;
CREATE TRIGGER announce AFTER DELETE OR UPDATE OF account_id, scopes, expires_at, revoked_at, requests_per_minute,
    tokens_per_minute, concurrent_calls, daily_credits, monthly_credits, allowed_networks, allowed_models, allowed_endpoints,
    allowed_origins ON billing_apikey
    FOR EACH ROW EXECUTE FUNCTION announce_change('account', 'account_id');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON billing_accountlimits
    FOR EACH ROW EXECUTE FUNCTION announce_change('account', 'account_id');
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON ratelimit_networkblock
    FOR EACH STATEMENT EXECUTE FUNCTION announce_change('blocks');
"""

BACKWARDS = """
DROP TRIGGER announce ON ratelimit_networkblock;
DROP TRIGGER announce ON billing_accountlimits;
DROP TRIGGER announce ON billing_apikey;
CREATE TRIGGER announce AFTER DELETE OR UPDATE OF account_id, scopes, expires_at, revoked_at ON billing_apikey
    FOR EACH ROW EXECUTE FUNCTION announce_change('account', 'account_id');
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0005_limits_and_allow_lists"), ("ratelimit", "0001_initial")]

    operations = [migrations.RunSQL(FORWARDS, BACKWARDS)]

"""Settings, all from the environment; `.env.example` explains each one.

`IAFACTORY_ENV` decides what is allowed to be missing: `local` (`make run`), `test` (`make test`) or `production` (the default,
which refuses to start without its secrets).
"""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import environ
from celery.schedules import crontab
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
if (BASE_DIR / ".env").is_file():
    env.read_env(str(BASE_DIR / ".env"))

ENVIRONMENT = env.str("IAFACTORY_ENV", default="production")
if ENVIRONMENT not in ("local", "test", "production"):
    raise ImproperlyConfigured(f"IAFACTORY_ENV must be local, test or production, not {ENVIRONMENT!r}")
PRODUCTION = ENVIRONMENT == "production"
DEBUG = False
VERSION = "0.1.0"

VAR = Path(env.str("VAR", default=str(BASE_DIR / "var")))

# --- Secrets: environ raises ImproperlyConfigured when one is missing, whatever the environment. ---
SECRET_KEY = env.str("SECRET_KEY")
FIELD_ENCRYPTION_KEYS = env.list("FIELD_ENCRYPTION_KEYS")
JWT_SIGNING_KEY = env.str("JWT_SIGNING_KEY")
if PRODUCTION and min(len(SECRET_KEY), len(JWT_SIGNING_KEY), *(len(key) for key in FIELD_ENCRYPTION_KEYS or [""])) < 32:
    raise ImproperlyConfigured("SECRET_KEY, JWT_SIGNING_KEY and FIELD_ENCRYPTION_KEYS need at least 32 characters each")

# --- Addresses ---
PUBLIC_URL = env.str("PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[] if PRODUCTION else ["127.0.0.1", "localhost", "[::1]", "testserver"])
CSRF_FAILURE_VIEW = "iafactory.error_pages.csrf_failure"
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
# Whose X-Forwarded-For is believed.
TRUSTED_PROXIES = env.list("TRUSTED_PROXIES", default=[])
SIMULATOR_URL = "" if PRODUCTION else env.str("SIMULATOR_URL", default="").rstrip("/")

# --- Applications ---
INSTALLED_APPS = [
    # Before the admin, whose templates the console extends.
    "dashboard",
    "dashboard.console.apps.ConsoleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "csp",
    "rest_framework",
    "rest_framework_simplejwt.token_blacklist",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "django_otp",
    "iafactory.apps.IAFactoryConfig",
    "ratelimit",
    "billing",
    "routing",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "iafactory.common.request_id.RequestIdMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "iafactory.common.language.LanguageMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "iafactory.urls"
ASGI_APPLICATION = "iafactory.asgi.application"
# API paths answer for themselves; a redirect would turn a POST into a GET.
APPEND_SLASH = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- PostgreSQL: the only place where money lives ---
DATABASES = {"default": env.db("DATABASE_URL")}
DATABASES["default"].update(
    CONN_MAX_AGE=env.int("DATABASE_CONN_MAX_AGE", default=60),
    CONN_HEALTH_CHECKS=True,
)
# The gateway's own async connections (key and catalogue look-ups) in one web process.
DATABASE_ASYNC_POOL_SIZE = env.int("DATABASE_ASYNC_POOL_SIZE", default=4)
# The connections that a web process keeps (it listens on one, and books on the others under time limits of their own) need
# sessions of their own: when DATABASE_URL leads to a pooler in transaction mode, this leads past it.
DATABASE_DIRECT_URL = env.str("DATABASE_DIRECT_URL", default="")
# What such a pooler cannot keep for its clients: cursors between transactions.
DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = bool(DATABASE_DIRECT_URL)

# --- Redis: speed limits, quotas, caches and the task queue; losing it loses no money ---
REDIS_URL = env.str("REDIS_URL")
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "iaf:cache",
        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"

# --- Users ---
AUTH_USER_MODEL = "billing.User"
AUTHENTICATION_BACKENDS = ["billing.accounts.backends.BrakedBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
if ENVIRONMENT == "test":
    PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
# Operators prove themselves with an authenticator app besides their password.
OPERATOR_TWO_FACTOR = env.bool("OPERATOR_TWO_FACTOR", default=PRODUCTION)
PASSWORD_RESET_TIMEOUT = int(timedelta(hours=2).total_seconds())
EMAIL_VERIFICATION_TIMEOUT = timedelta(days=3)
LOGIN_URL = "admin:login"

# --- Brakes on those who have no credentials yet, per window of `billing.accounts.throttles` ---
LOGIN_ATTEMPTS_PER_EMAIL = env.int("LOGIN_ATTEMPTS_PER_EMAIL", default=10)
LOGIN_ATTEMPTS_PER_ADDRESS = env.int("LOGIN_ATTEMPTS_PER_ADDRESS", default=60)
REGISTRATIONS_PER_ADDRESS = env.int("REGISTRATIONS_PER_ADDRESS", default=5)
REGISTRATION_ATTEMPTS_PER_ADDRESS = env.int("REGISTRATION_ATTEMPTS_PER_ADDRESS", default=60)
REGISTRATION_ATTEMPTS_PER_EMAIL = env.int("REGISTRATION_ATTEMPTS_PER_EMAIL", default=10)
PASSWORD_RESETS_PER_EMAIL = env.int("PASSWORD_RESETS_PER_EMAIL", default=5)
PASSWORD_RESETS_PER_ADDRESS = env.int("PASSWORD_RESETS_PER_ADDRESS", default=30)
PASSWORD_RESET_CONFIRMATIONS_PER_ADDRESS = env.int("PASSWORD_RESET_CONFIRMATIONS_PER_ADDRESS", default=30)
VERIFICATION_MAILS_PER_USER = env.int("VERIFICATION_MAILS_PER_USER", default=5)
VERIFICATION_MAILS_PER_ADDRESS = env.int("VERIFICATION_MAILS_PER_ADDRESS", default=30)
INVITATIONS_PER_ACCOUNT = env.int("INVITATIONS_PER_ACCOUNT", default=20)
LEAKED_KEY_REPORTS_PER_ADDRESS = env.int("LEAKED_KEY_REPORTS_PER_ADDRESS", default=30)
# `refuse` or `allow`: attempts that cannot be counted while Redis is away. Its loss must not lock everybody out.
LOGIN_BRAKES_WITHOUT_REDIS = env.str("LOGIN_BRAKES_WITHOUT_REDIS", default="allow")

# --- Abuse signals: what is strange enough to be shown to an operator ---
ABUSE_MESSAGES_A_DAY = env.int("ABUSE_MESSAGES_A_DAY", default=300)
ABUSE_REGISTRATIONS_PER_ADDRESS = env.int("ABUSE_REGISTRATIONS_PER_ADDRESS", default=10)
ABUSE_NEW_ACCOUNT_CALLS_AN_HOUR = env.int("ABUSE_NEW_ACCOUNT_CALLS_AN_HOUR", default=100)
ABUSE_LOST_CALLS_AN_HOUR = env.int("ABUSE_LOST_CALLS_AN_HOUR", default=20)
ABUSE_LOST_CALLS_PERCENT = env.int("ABUSE_LOST_CALLS_PERCENT", default=50)
ABUSE_SPEND_TIMES_NORMAL = env.int("ABUSE_SPEND_TIMES_NORMAL", default=10)
ABUSE_SPEND_FLOOR_CREDITS = env.int("ABUSE_SPEND_FLOOR_CREDITS", default=100)
ABUSE_REFUSED_PAYMENTS_A_DAY = env.int("ABUSE_REFUSED_PAYMENTS_A_DAY", default=5)
ABUSE_KEY_NETWORKS_A_DAY = env.int("ABUSE_KEY_NETWORKS_A_DAY", default=10)
ABUSE_REPEATED_PROMPTS_A_DAY = env.int("ABUSE_REPEATED_PROMPTS_A_DAY", default=100)
UNUSED_KEY_DAYS = env.int("UNUSED_KEY_DAYS", default=90)

# --- Payment gateways: those enabled may take new payments, the first is preferred; all that have a key receive webhooks ---
PAYMENT_GATEWAYS = env.list("PAYMENT_GATEWAYS", default=[])
PAYMENT_MODE = env.str("PAYMENT_MODE", default="test")
if PAYMENT_MODE not in ("test", "live"):
    raise ImproperlyConfigured(f"PAYMENT_MODE must be test or live, not {PAYMENT_MODE!r}")
# A refund worth more has to be approved by a second operator; empty: none has.
_refund_limit = env.str("REFUND_SECOND_OPERATOR_ABOVE_USD", default="200")
REFUND_SECOND_OPERATOR_ABOVE_USD = Decimal(_refund_limit) if _refund_limit else None
CHARGILY_SECRET_KEY = env.str("CHARGILY_SECRET_KEY", default="")
CHARGILY_EARLIER_SECRET_KEYS = env.list("CHARGILY_EARLIER_SECRET_KEYS", default=[])
STRIPE_SECRET_KEY = env.str("STRIPE_SECRET_KEY", default="")
STRIPE_WEBHOOK_SECRETS = env.list("STRIPE_WEBHOOK_SECRETS", default=[])
PAYPAL_CLIENT_ID = env.str("PAYPAL_CLIENT_ID", default="")
PAYPAL_CLIENT_SECRET = env.str("PAYPAL_CLIENT_SECRET", default="")
PAYPAL_WEBHOOK_IDS = env.list("PAYPAL_WEBHOOK_IDS", default=[])
PAYPAL_CERTIFICATE_AUTHORITIES = env.str("PAYPAL_CERTIFICATE_AUTHORITIES", default="")
RAZORPAY_KEY_ID = env.str("RAZORPAY_KEY_ID", default="")
RAZORPAY_KEY_SECRET = env.str("RAZORPAY_KEY_SECRET", default="")
RAZORPAY_WEBHOOK_SECRETS = env.list("RAZORPAY_WEBHOOK_SECRETS", default=[])
PAYU_MERCHANT_KEY = env.str("PAYU_MERCHANT_KEY", default="")
PAYU_SALTS = env.list("PAYU_SALTS", default=[])
PAYU_WEBHOOK_TOKENS = env.list("PAYU_WEBHOOK_TOKENS", default=[])
CHARGILY_API_URL = env.str("CHARGILY_API_URL", default="")
STRIPE_API_URL = env.str("STRIPE_API_URL", default="")
PAYPAL_API_URL = env.str("PAYPAL_API_URL", default="")
RAZORPAY_API_URL = env.str("RAZORPAY_API_URL", default="")
PAYU_API_URL = env.str("PAYU_API_URL", default="")
PAYU_PAY_URL = env.str("PAYU_PAY_URL", default="")

# --- Language and time ---
LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("fr", _("French")), ("ar", _("Arabic"))]
# What customers read, refusals of the API, what operators read: the catalogues of `iafactory/local/translations.py`.
LOCALE_PATHS = [BASE_DIR / "locale", BASE_DIR / "locale" / "errors", BASE_DIR / "locale" / "console"]
USE_I18N = True
FORMAT_MODULE_PATH = ["iafactory.common.date_formats"]
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_ACCOUNT_TIME_ZONE = env.str("DEFAULT_ACCOUNT_TIME_ZONE", default="Africa/Algiers")

# --- Static files ---
STATIC_URL = "/static/"
# Where `collectstatic` puts them for production; elsewhere they are found in the apps.
STATIC_ROOT = BASE_DIR / "staticfiles" if PRODUCTION else None
if PRODUCTION:
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }
else:
    WHITENOISE_USE_FINDERS = True
    WHITENOISE_AUTOREFRESH = False

# --- Mail ---
MAIL_DIR = env.str("MAIL_DIR", default="")
if ENVIRONMENT == "test":
    EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
elif MAIL_DIR:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = MAIL_DIR
else:
    vars().update(env.email("EMAIL_URL", default="smtp://localhost:25"))
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="IA Factory <no-reply@localhost>")

# --- Web security ---
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Everything comes from here, nothing stands inline; images may be inside style sheets (`data:`).
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
if PRODUCTION:
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
    SECURE_REDIRECT_EXEMPT = [r"^health"]
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=31536000)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True

# --- REST API ---
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["billing.accounts.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["iafactory.common.rendering.MoneyJSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["iafactory.common.parsing.StrictJSONParser"],
    "DEFAULT_PAGINATION_CLASS": "iafactory.common.pagination.Pages",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "iafactory.common.errors.drf_exception_handler",
    "PAGE_SIZE": 50,
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
SIMPLE_JWT = {
    "ALGORITHM": "HS256",
    "SIGNING_KEY": JWT_SIGNING_KEY,
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=30),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=30),
    "ROTATE_REFRESH_TOKENS": True,
    "BLACKLIST_AFTER_ROTATION": True,
    "CHECK_REVOKE_TOKEN": True,
    "UPDATE_LAST_LOGIN": True,
    "USER_ID_CLAIM": "sub",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "IA Factory",
    "DESCRIPTION": "AI gateway compatible with OpenAI's clients, with the billing behind it.",
    "VERSION": VERSION,
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "GET_LIB_DOC_EXCLUDES": "iafactory.common.schema.doc_excludes",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "iafactory.common.schema.summaries_fill",
    ],
    # What clients call first; operators' own last.
    "TAGS": [
        {"name": name}
        for name in (
            *("OpenAI-compatible", "Anthropic-compatible", "Own", "keys", "billing", "subscriptions", "payment", "webhooks"),
            *("accounts", "auth", "credits", "operators", "Operations"),
        )
    ],
    # Without a name of their own these would be called after the first field that uses them.
    "ENUM_NAME_OVERRIDES": {
        "AccountKind": "billing.accounts.models.Account.Kind",
        "AccountStatus": "billing.accounts.models.Account.Status",
        "ApiKeyScope": "billing.accounts.models.ApiKey.Scope",
        "ApiKeyState": ["active", "revoked", "expired"],
        "InvoiceKind": "billing.invoices.models.Invoice.Kind",
        "InvoicePurpose": "billing.invoices.models.Invoice.Purpose",
        "InvoiceState": "billing.invoices.models.Invoice.State",
        "Language": LANGUAGES,
        "MembershipRole": "billing.accounts.models.Membership.Role",
        "PaymentProgress": "billing.payments.models.Payment.State",
        "NoticeKind": "billing.notices.models.NoticeKind",
        "CreditLevel": "billing.notices.models.CreditNotice.Level",
        "WebhookDeliveryKind": "billing.webhooks.models.WebhookDelivery.Kind",
        "WebhookDeliveryState": "billing.webhooks.models.WebhookDelivery.State",
        "WebhookDisabledBy": "billing.webhooks.models.WebhookEndpoint.DisabledBy",
    },
}

# --- Gateway ---
MAX_BODY_BYTES = env.int("MAX_BODY_BYTES", default=32 * 1024 * 1024)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
CALL_TIMEOUT_SECONDS = env.int("CALL_TIMEOUT_SECONDS", default=600)
# A hold outlives its call by this much; afterwards the reaper closes it.
HOLD_GRACE_SECONDS = env.int("HOLD_GRACE_SECONDS", default=30)
SETTLE_TIMEOUT_SECONDS = env.int("SETTLE_TIMEOUT_SECONDS", default=10)
LEDGER_QUEUE_LIMIT = env.int("LEDGER_QUEUE_LIMIT", default=5000)
# `refuse` or `allow`: calls that only speed limits could stop, while Redis is away. Quotas and budgets always refuse.
SPEED_LIMITS_WITHOUT_REDIS = env.str("SPEED_LIMITS_WITHOUT_REDIS", default="refuse")
# The books' day seals, kept outside the database too: put it where database operators cannot write.
BOOKS_SEAL_FILE = env.str("BOOKS_SEAL_FILE", default=str(VAR / "seals.txt"))
# How many whole months before the running one the usage log keeps; 0: all. Older ones become files in the folder, checked, and
# then leave the database.
USAGE_RETENTION_MONTHS = env.int("USAGE_RETENTION_MONTHS", default=0)
USAGE_ARCHIVE_FOLDER = env.str("USAGE_ARCHIVE_FOLDER", default=str(VAR / "usage-archive"))
# What else grows, in days; jobs delete what is older.
WEBHOOK_DELIVERY_RETENTION_DAYS = env.int("WEBHOOK_DELIVERY_RETENTION_DAYS", default=30)
ALERT_RETENTION_DAYS = env.int("ALERT_RETENTION_DAYS", default=90)
REJECTED_WEBHOOK_RETENTION_DAYS = env.int("REJECTED_WEBHOOK_RETENTION_DAYS", default=7)
JOB_RUN_RETENTION_DAYS = env.int("JOB_RUN_RETENTION_DAYS", default=90)
DEFAULT_DAILY_BUDGET_USD = env.str("DEFAULT_DAILY_BUDGET_USD", default="50")

# --- Outbound webhooks and the marketplace ---
# Whether endpoints at http://127.0.0.1 may be registered and called; never in production.
WEBHOOKS_ALLOW_LOOPBACK = not PRODUCTION and env.bool("WEBHOOKS_ALLOW_LOOPBACK", default=True)
WEBHOOK_TIMEOUT_SECONDS = env.int("WEBHOOK_TIMEOUT_SECONDS", default=15)
# What RapidAPI's proxy sends as X-RapidAPI-Proxy-Secret; several while it changes, none: the door is closed.
RAPIDAPI_PROXY_SECRETS = env.list("RAPIDAPI_PROXY_SECRETS", default=[])

# --- Providers ---
# Whether a provider that an operator connects may lie in a private network: a model server of your own. Outside of production
# it always may.
PROVIDERS_ALLOW_PRIVATE_ADDRESSES = not PRODUCTION or env.bool("PROVIDERS_ALLOW_PRIVATE_ADDRESSES", default=False)

# --- Alerts to operators ---
# In which language messages about alerts are written: operators share them.
ALERTS_LANGUAGE = env.str("ALERTS_LANGUAGE", default="en")
if ALERTS_LANGUAGE not in ("en", "fr", "ar"):
    raise ImproperlyConfigured(f"ALERTS_LANGUAGE must be en, fr or ar, not {ALERTS_LANGUAGE!r}")
# Whether alert targets may lie in private networks (a mail relay, a chat server of your own).
ALERTS_ALLOW_PRIVATE_TARGETS = env.bool("ALERTS_ALLOW_PRIVATE_TARGETS", default=False)

# --- Celery ---
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default="") or (
    "redis+socket://" + REDIS_URL.removeprefix("unix://").replace("?db=", "?virtual_host=")
    if REDIS_URL.startswith("unix://")
    else REDIS_URL
)
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_DEFAULT_QUEUE = "celery"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# With the broker away an enqueue gives up at once: the row it hints at is swept up later.
CELERY_BROKER_TRANSPORT_OPTIONS = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}
CELERY_TIMEZONE = "UTC"
CELERY_TASK_TIME_LIMIT = 300
# The schedule below, kept in the database: the console switches jobs off and on.
CELERY_BEAT_SCHEDULER = "dashboard.jobs.scheduler:Scheduler"
# No results are kept, so there are none to clean up.
CELERY_RESULT_EXPIRES = None
CELERY_BEAT_SCHEDULE = {
    # Close holds whose process died: within 15 seconds of their expiry, though a try or two fail because the worker, the broker
    # or the database is starting again.
    "reap-expired-holds": {"task": "billing.ledger.reap_holds", "schedule": 3.0, "options": {"expire_seconds": 6}},
    # Book lots that became effective or expired on wallets nobody used since.
    "roll-due-wallets": {"task": "billing.ledger.roll_due_wallets", "schedule": 60.0, "options": {"expire_seconds": 60}},
    # Answers kept for repeated idempotency keys live for a day.
    "forget-kept-answers": {"task": "billing.ledger.forget_answers", "schedule": 3600.0},
    # Reports over weeks read sums of days, not millions of calls.
    "sum-usage-days": {"task": "billing.ledger.sum_usage_days", "schedule": 900.0, "options": {"expire_seconds": 900}},
    # Yesterday's books are closed and chained to the day before.
    "seal-days": {"task": "billing.ledger.seal_days", "schedule": crontab(hour=0, minute=30)},
    # Every balance recomputed from the rows behind it.
    "verify-books": {"task": "billing.ledger.verify_books", "schedule": crontab(hour=2, minute=15)},
    # Refresh tokens that ran out say nothing any more.
    "flush-expired-sessions": {"task": "billing.accounts.sessions_flush_expired", "schedule": 24 * 3600.0},
    # What looks like abuse is shown to operators while it happens.
    "detect-abuse": {"task": "billing.abuse.detect", "schedule": 300.0, "options": {"expire_seconds": 300}},
    # Invoices whose task was lost are rendered and mailed all the same.
    "deliver-late-invoices": {"task": "billing.invoices.deliver_late", "schedule": 300.0, "options": {"expire_seconds": 300}},
    # Every route in use is asked whether it is well, also those that nobody calls.
    "check-health": {"task": "routing.check_health", "schedule": 300.0, "options": {"expire_seconds": 300}},
    # Blocks that end by themselves.
    "unblock-due-accounts": {"task": "billing.accounts.unblock_due", "schedule": 30.0, "options": {"expire_seconds": 30}},
    # A changed time zone counts from the account's next day on.
    "apply-time-zones": {"task": "billing.accounts.time_zones_apply", "schedule": 60.0, "options": {"expire_seconds": 60}},
    # A key that nobody uses is a key that nobody would miss: its owner is told, on Mondays.
    "warn-of-unused-keys": {
        "task": "billing.accounts.warn_of_unused_keys",
        "schedule": crontab(day_of_week="mon", hour=8, minute=0),
    },
    # Events become messages to customers' endpoints.
    "fan-out-webhooks": {"task": "billing.webhooks.fan_out", "schedule": 2.0, "options": {"expire_seconds": 4}},
    # What is due again, and what a dead worker left; new messages do not wait for this.
    "deliver-webhooks": {"task": "billing.webhooks.deliver", "schedule": 5.0, "options": {"expire_seconds": 10}},
    "send-webhook-notices": {"task": "billing.webhooks.notices_send", "schedule": 300.0, "options": {"expire_seconds": 300}},
    # Deliveries and their logs are kept for 30 days.
    "forget-webhook-deliveries": {"task": "billing.webhooks.forget", "schedule": 24 * 3600.0},
    # Credits that run low or out.
    "notice-credits": {"task": "billing.notices.credits", "schedule": 60.0, "options": {"expire_seconds": 60}},
    "notice-key-budgets": {"task": "billing.notices.budgets", "schedule": 300.0, "options": {"expire_seconds": 300}},
    # The plan's day used up; trials, plans and credits that end; and mails about all of it that were lost.
    "notice-quotas": {"task": "billing.notices.quotas", "schedule": 300.0, "options": {"expire_seconds": 300}},
    "notice-endings": {"task": "billing.notices.endings", "schedule": 3600.0},
    "mail-notices": {"task": "billing.notices.mails", "schedule": 300.0, "options": {"expire_seconds": 300}},
    # Next periods are invoiced, periods begin, what nobody paid ends; each subscription by itself.
    "renew-subscriptions": {"task": "billing.subscriptions.renew_due", "schedule": 300.0, "options": {"expire_seconds": 300}},
    # Before the next period is invoiced, which is a fifth of a period ahead at most.
    "move-prices": {"task": "billing.subscriptions.move_prices", "schedule": 900.0, "options": {"expire_seconds": 900}},
    "bill-overage": {"task": "billing.subscriptions.bill_overage", "schedule": 3600.0},
    "remind-of-unpaid-invoices": {
        "task": "billing.subscriptions.remind",
        "schedule": 900.0,
        "options": {"expire_seconds": 900},
    },
    # Checkouts and payments by hand that came to nothing.
    "expire-incomplete-subscriptions": {"task": "billing.subscriptions.expire_incomplete", "schedule": 3600.0},
    "expire-manual-payments": {"task": "billing.payments.manual_expire", "schedule": 3600.0},
    # Webhooks of gateways that nobody worked, and those that could not be verified at once.
    "sweep-gateway-webhooks": {"task": "billing.payments.webhooks_sweep", "schedule": 30.0, "options": {"expire_seconds": 30}},
    # Open payments are asked about at 2, 10 and 30 minutes, then every hour: webhooks may never come.
    "poll-open-payments": {"task": "billing.payments.poll_open", "schedule": 60.0, "options": {"expire_seconds": 60}},
    # Renewals of customers who agreed to that are charged to their saved cards; removed cards are forgotten at the gateway.
    "charge-renewals": {"task": "billing.payments.renewals_charge", "schedule": 300.0, "options": {"expire_seconds": 300}},
    "sweep-removed-cards": {"task": "billing.payments.cards_sweep", "schedule": 900.0, "options": {"expire_seconds": 900}},
    # Refunds under way are sent and asked about, ever less often.
    "poll-open-refunds": {"task": "billing.payments.refunds_poll", "schedule": 60.0, "options": {"expire_seconds": 60}},
    # Every closed day is compared with what the gateways say of it: late enough that they list all of it.
    "reconcile-payments": {"task": "billing.payments.reconcile", "schedule": crontab(hour=3, minute=45)},
    # Days whose gateway did not answer, or whose worker died.
    "reconcile-waiting-days": {
        "task": "billing.payments.reconcile_waiting",
        "schedule": 900.0,
        "options": {"expire_seconds": 900},
    },
    # What was not a gateway's word is kept for a week.
    "forget-rejected-webhooks": {"task": "billing.payments.rejected_forget", "schedule": 24 * 3600.0},
    # Months of the usage log beyond their retention become files.
    "archive-usage": {"task": "billing.ledger.archive_usage", "schedule": crontab(hour=4, minute=45)},
    # What operators must know: looked at by a worker; that beat itself is dead, web processes and workers notice alone.
    "look-for-trouble": {"task": "dashboard.alerts.look", "schedule": 120.0, "options": {"expire_seconds": 120}},
    "look-at-budgets": {"task": "dashboard.alerts.look_at_budgets", "schedule": 900.0, "options": {"expire_seconds": 900}},
    # Alerts whose target did not answer, and those that waited for the end of quiet hours; new ones do not wait for this.
    "deliver-alerts": {"task": "dashboard.alerts.deliver", "schedule": 30.0, "options": {"expire_seconds": 30}},
    "forget-alerts": {"task": "dashboard.alerts.forget", "schedule": 24 * 3600.0},
    # Operators who were logged in as a customer and closed their browser: the end stands in the account's timeline too.
    "expire-impersonations": {"task": "dashboard.impersonation.expire", "schedule": 60.0, "options": {"expire_seconds": 60}},
    # The usage log needs next month's partition before the month begins.
    "ensure-usage-partitions": {"task": "billing.ledger.ensure_usage_partitions", "schedule": 6 * 3600.0},
}

# --- Metrics: one folder for all processes of a machine; who may read them ---
METRICS_FOLDER = env.str("METRICS_FOLDER", default=str(VAR / "metrics"))
METRICS_NETWORKS = env.list("METRICS_NETWORKS", default=[]) or ["127.0.0.0/8", "::1/128"]
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")

# --- Logs: one line each, with the request id; never a prompt, never a secret ---
LOG_FORMAT = env.str("LOG_FORMAT", default="") or ("json" if PRODUCTION else "text")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"context": {"()": "iafactory.common.logs.ContextFilter"}},
    "formatters": {
        "text": {
            "()": "iafactory.common.logs.LineFormatter",
            "format": "{asctime} {levelname} {name} [{request_id}] {message}",
            "style": "{",
        },
        "json": {"()": "iafactory.common.logs.JsonFormatter"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "json" if LOG_FORMAT == "json" else "text",
            "filters": ["context"],
        }
    },
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        # Their own handlers go: every line has one form.
        "django": {"handlers": [], "level": "INFO"},
        "django.server": {"handlers": [], "propagate": True},
        "uvicorn": {"handlers": [], "propagate": True},
        "uvicorn.error": {"handlers": [], "propagate": True},
        # Addresses may hold tokens, and the server in front writes them down better.
        "uvicorn.access": {"handlers": [], "propagate": False},
        "django.request": {"level": "ERROR"},
        "httpx": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
        # That a task was received, with its arguments at DEBUG: what became of it is another line.
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
    },
}

# --- Optional: traces by OpenTelemetry, errors to Sentry; the libraries are in requirements-observability.txt ---
TRACES_ENDPOINT = env.str("TRACES_ENDPOINT", default="")
# Which share of calls, pages and tasks is traced, 0 to 1.
TRACES_SHARE = env.float("TRACES_SHARE", default=0.1)
SENTRY_DSN = env.str("SENTRY_DSN", default="")

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

"""Whether an installation can go live: one look at each thing that must be in place, each with a reason when it is not."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.core import checks
from django.core.mail import get_connection
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from dashboard.alerts.models import AlertTarget
from iafactory.common import clock
from routing.models import ModelProfile, Provider, ProviderCredential

OLDEST_POSTGRESQL = 150000
OLDEST_REDIS = (6, 2)
CLOCK_TOLERANCE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Result:
    """What one look found. Not `ok` stops a deployment, unless it is a `warning`."""

    name: str
    ok: bool
    text: str
    warning: bool = False


class Skipped(Exception):
    """Cannot be looked at without something that was found missing before."""


def _settings() -> Result:
    """Django's own checks for production and ours: secrets, hosts, cookies, gateways."""
    found = checks.run_checks(include_deployment_checks=settings.PRODUCTION)
    serious = [message for message in found if message.level >= checks.ERROR]
    if serious:
        return Result("settings", False, "; ".join(f"{message.id}: {message.msg}" for message in serious))
    minor = [message for message in found if message.level >= checks.WARNING and not message.is_silenced()]
    if minor:
        return Result("settings", False, "; ".join(f"{message.id}: {message.msg}" for message in minor), warning=True)
    return Result("settings", True, f"{settings.ENVIRONMENT}, {settings.PUBLIC_URL}")


def _postgresql() -> Result:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('server_version_num')::int, current_setting('server_version')")
            number, text = cursor.fetchone()
            cursor.execute("SELECT current_setting('synchronous_commit'), current_setting('fsync')")
            commits, fsync = cursor.fetchone()
    except DatabaseError as error:
        return Result("postgresql", False, f"does not answer: {type(error).__name__}")
    if number < OLDEST_POSTGRESQL:
        return Result("postgresql", False, f"{text} is older than 15")
    if "off" in (commits, fsync):
        # An answered call must be booked, whatever happens to the machine.
        text = f"fsync = {fsync}, synchronous_commit = {commits}: a power loss would lose booked calls"
        return Result("postgresql", False, text, warning=not settings.PRODUCTION)
    return Result("postgresql", True, str(text))


def _redis() -> Result:
    try:
        info = get_redis_connection("default").info()
    except (RedisError, OSError) as error:
        return Result("redis", False, f"does not answer: {type(error).__name__}")
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        return Result("redis", False, f"{version} is older than 6.2")
    policy = str(info.get("maxmemory_policy", ""))
    if info.get("maxmemory") and policy != "noeviction":
        return Result("redis", False, f"maxmemory-policy is {policy}: limits would be forgotten; set noeviction")
    return Result("redis", True, version)


def _migrations() -> Result:
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        raise Skipped from error
    if missing:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in missing[:5])
        return Result("migrations", False, f"{len(missing)} not applied: {names}{'…' if len(missing) > 5 else ''}")
    return Result("migrations", True, "all applied")


def _secrets() -> Result:
    """Every stored provider key must open with the present master keys."""
    try:
        ids = list(ProviderCredential.objects.values_list("pk", flat=True))
    except DatabaseError as error:
        raise Skipped from error
    closed = 0
    for pk in ids:
        try:
            ProviderCredential.objects.get(pk=pk)
        except InvalidToken:
            closed += 1
    if closed:
        return Result(
            "secrets", False, f"{closed} of {len(ids)} provider credentials open with no key of FIELD_ENCRYPTION_KEYS"
        )
    return Result("secrets", True, f"{len(ids)} provider credentials open")


def _providers() -> Result:
    try:
        ready = Provider.objects.filter(enabled=True, credentials__enabled=True).distinct().count()
        priced = ModelProfile.objects.filter(enabled=True, provider__enabled=True, prices__isnull=False).distinct().count()
    except DatabaseError as error:
        raise Skipped from error
    if not priced:
        return Result("providers", False, "no model has a price: run load_catalog")
    if not ready and not settings.SIMULATOR_URL:
        return Result("providers", False, "no provider has a credential: nothing can be served", warning=True)
    return Result("providers", True, f"{ready} with a credential, {priced} priced profiles")


def _gateways() -> Result:
    enabled = list(settings.PAYMENT_GATEWAYS)
    if not enabled:
        return Result("gateways", False, "none is enabled: only the manual one takes money", warning=True)
    return Result("gateways", True, f"{', '.join(enabled)}, {settings.PAYMENT_MODE}")


def _mail() -> Result:
    try:
        mail = get_connection()
        mail.open()
        mail.close()
    except OSError as error:
        return Result("mail", False, f"the mail server does not answer: {type(error).__name__}", warning=True)
    return Result("mail", True, settings.EMAIL_BACKEND.rpartition(".")[0].rpartition(".")[2])


def _alerts() -> Result:
    """Somebody must hear of what goes wrong."""
    try:
        targets = AlertTarget.objects.filter(is_enabled=True).count()
    except DatabaseError as error:
        raise Skipped from error
    if not targets:
        return Result("alerts", False, "no target: alerts are shown in the console and sent to nobody", warning=True)
    return Result("alerts", True, f"{targets} targets")


def _clock() -> Result:
    """Budgets, quotas and expiry are cut by our clock: the servers' must agree with it."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            database = cursor.fetchone()[0]
        seconds, micros = get_redis_connection("default").time()
    except (DatabaseError, RedisError, OSError) as error:
        raise Skipped from error
    now = clock.now()
    apart = max(abs(now - database), abs(now - datetime.fromtimestamp(seconds + micros / 1_000_000, UTC)))
    text = f"{apart.total_seconds():.2f} s apart from PostgreSQL and Redis"
    return Result("clock", apart <= CLOCK_TOLERANCE, text)


def _folders() -> Result:
    wanted = [Path(settings.METRICS_FOLDER), Path(settings.BOOKS_SEAL_FILE).parent]
    closed = [str(folder) for folder in wanted if not (folder.is_dir() and os.access(folder, os.W_OK))]
    if closed:
        return Result("folders", False, f"cannot be written: {', '.join(closed)}")
    return Result("folders", True, ", ".join(str(folder) for folder in wanted))


_BEFORE_MIGRATE: tuple[Callable[[], Result], ...] = (_settings, _postgresql, _redis, _clock, _folders)
_ALL = (*_BEFORE_MIGRATE, _migrations, _secrets, _providers, _gateways, _mail, _alerts)


def preflight(*, before_migrate: bool = False) -> Iterator[Result]:
    """Look at one thing after the other. `before_migrate` leaves out what the tables of this release are needed for."""
    for look in _BEFORE_MIGRATE if before_migrate else _ALL:
        try:
            yield look()
        except Skipped:
            yield Result(look.__name__.lstrip("_"), False, "cannot be looked at without the above")

"""`GET /health/ready`: whether this process can serve, with a reason for each thing that is missing."""

from collections.abc import Callable

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django_redis import get_redis_connection
from drf_spectacular.utils import extend_schema
from redis.exceptions import RedisError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from iafactory.common import clock

from .jobs.selectors import heartbeat

_ANSWER = {
    "type": "object",
    "properties": {
        "ready": {"type": "boolean"},
        "checks": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return f"PostgreSQL does not answer: {type(error).__name__}"
    return ""


def _redis() -> str:
    try:
        get_redis_connection("default").ping()
    except (RedisError, OSError) as error:
        return f"Redis does not answer: {type(error).__name__}"
    return ""


def _migrations() -> str:
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        return f"cannot be read: {type(error).__name__}"
    return f"{len(missing)} not applied" if missing else ""


def _beat() -> str:
    try:
        beat = heartbeat(clock.now())
    except DatabaseError as error:
        return f"cannot be read: {type(error).__name__}"
    if not beat.late:
        return ""
    return (
        "scheduled work has never run" if beat.at is None else f"scheduled work last began at {beat.at:%Y-%m-%d %H:%M:%S} UTC"
    )


# Name, check, and whether a web process without it must get no calls. Scheduled work that stands still is for alerts: taking
# every web process away would not bring it back.
CHECKS: tuple[tuple[str, Callable[[], str], bool], ...] = (
    ("postgresql", _database, True),
    ("redis", _redis, True),
    ("migrations", _migrations, True),
    ("beat", _beat, False),
)


class Ready(APIView):
    """For load balancers and orchestrators: figures of nobody, hence open."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(
        operation_id="health_ready",
        tags=["Operations"],
        summary="Can the process serve?",
        description="Every check names its reason, or `ok`. Without a worker or beat the process still serves: `beat` says so.",
        auth=[],
        responses={200: _ANSWER, 503: _ANSWER},
    )
    def get(self, request: Request) -> Response:
        reasons = {name: check() for name, check, _ in CHECKS}
        ready = not any(reasons[name] for name, _, needed in CHECKS if needed)
        return Response(
            {"ready": ready, "checks": {name: reason or "ok" for name, reason in reasons.items()}},
            status=200 if ready else 503,
        )

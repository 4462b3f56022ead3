"""The embedded PostgreSQL and Redis: they keep their data, survive kill -9 and have a URL for every library."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import environ
import kombu
import psutil
import psycopg
import pytest
import redis

from iafactory.local.processes import is_alive, wait_until
from iafactory.local.secrets_file import local_secrets, local_secrets_save
from iafactory.local.servers import LocalServers, VarInUse, var_lock
from iafactory.local.urls import celery_broker_url, postgres_url, redis_url

PROJECT = Path(__file__).resolve().parents[2]

LEAVE_RUNNING = """
import signal, sys, time
from pathlib import Path
from iafactory.local import servers

servers.signal.SIGINT = signal.SIGCONT  # as on a system without parent-death signals
with servers.var_lock(Path(sys.argv[1])):
    local = servers.LocalServers(Path(sys.argv[1]), durable=False, outer_environment={})
    local.start()
    print(local.postgres.process.pid, local.redis.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def servers(tmp_path):
    local = LocalServers(tmp_path, durable=False, outer_environment={})
    yield local
    local.stop()
    local.remove_outside()


def test_a_row_and_a_key_are_there_after_a_restart(tmp_path):
    servers = LocalServers(tmp_path, outer_environment={})
    servers.start()
    with psycopg.connect(servers.postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (amount numeric)")
        connection.execute("INSERT INTO kept VALUES (12.000000001)")
    with redis.Redis.from_url(servers.redis.url) as client:
        client.set("kept", "yes")
    servers.stop()

    again = LocalServers(tmp_path, outer_environment={})
    again.start()
    with psycopg.connect(again.postgres.url()) as connection:
        row = connection.execute("SELECT amount::text FROM kept").fetchone()
    with redis.Redis.from_url(again.redis.url, decode_responses=True) as client:
        value = client.get("kept")
    again.stop()
    again.remove_outside()

    assert row == ("12.000000001",)
    assert value == "yes"


def test_the_servers_are_durable_and_listen_on_no_network(tmp_path):
    servers = LocalServers(tmp_path, outer_environment={})
    servers.start()

    with psycopg.connect(servers.postgres.url()) as connection:
        names = ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "TimeZone", "max_connections")
        settings = [connection.execute(f"SHOW {name}").fetchone()[0] for name in names]
    with redis.Redis.from_url(servers.redis.url, decode_responses=True) as client:
        redis_settings = client.config_get("port") | client.config_get("appendonly") | client.config_get("save")
    internet = [
        connection
        for process in (servers.postgres.process, servers.redis.process)
        for connection in psutil.Process(process.pid).net_connections("inet")
    ]
    servers.stop()
    servers.remove_outside()

    assert settings == ["on", "on", "on", "", "UTC", "200"]
    assert redis_settings == {"port": "0", "appendonly": "yes", "save": ""}
    assert internet == []


def test_only_the_owner_can_enter_the_socket_folders(servers):
    servers.start()

    postgres_folder = Path(environ.Env.db_url_config(servers.postgres.url())["OPTIONS"]["host"])
    redis_folder = Path(redis.Redis.from_url(servers.redis.url).connection_pool.connection_kwargs["path"]).parent

    assert stat.S_IMODE(postgres_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(redis_folder.stat().st_mode) == 0o700


def test_starting_changes_no_mode_of_the_folders_above(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    servers = LocalServers(closed / "var", durable=False, outer_environment={})

    servers.start()
    servers.stop()
    servers.remove_outside()

    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_deep_folder_with_spaces_gets_a_short_socket_path(tmp_path):
    var = tmp_path / ("a folder with spaces, commas and 'quotes' " * 3) / "var"
    servers = LocalServers(var, durable=False, outer_environment={})

    servers.start()
    with psycopg.connect(servers.postgres.url()) as connection:
        answer = connection.execute("SELECT 1").fetchone()
    with redis.Redis.from_url(servers.redis.url) as client:
        pong = client.ping()
    servers.stop()
    servers.remove_outside()

    assert answer == (1,)
    assert pong is True


def test_servers_named_by_the_environment_are_used_and_ours_not_started(tmp_path):
    outer = {"DATABASE_URL": "postgres://someone@db.example/books", "REDIS_URL": "redis://cache.example:6379/3"}

    with LocalServers(tmp_path, outer_environment=outer) as servers:
        started = (servers.postgres, servers.redis)
        environment = servers.environment()

    assert started == (None, None)
    assert environment == outer
    assert list(tmp_path.iterdir()) == []


def test_every_library_understands_our_urls(servers):
    servers.start()
    url = servers.redis.url

    django = environ.Env.db_url_config(servers.postgres.url())
    with redis.Redis.from_url(url.replace("db=0", "db=5")) as client:
        database = client.connection_pool.connection_kwargs["db"]
        client.set("only-here", "1")
    with kombu.Connection(celery_broker_url(url.replace("db=0", "db=5"))) as broker:
        keys = broker.default_channel.client.keys("only-*")

    assert (django["NAME"], django["USER"], django["HOST"], django["OPTIONS"]["port"]) == (
        "iafactory",
        "postgres",
        "",
        5432,
    )
    assert database == 5
    assert keys == [b"only-here"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("unix:///run/a/redis.sock?db=3", "redis+socket:///run/a/redis.sock?virtual_host=3"),
        ("unix:///run/a/redis.sock", "redis+socket:///run/a/redis.sock?virtual_host=0"),
        ("redis://cache.example:6379/2", "redis://cache.example:6379/2"),
        ("rediss://:secret@cache.example:6379/0", "rediss://:secret@cache.example:6379/0"),
    ],
)
def test_celery_gets_its_own_form(url, expected):
    assert celery_broker_url(url) == expected


def test_url_forms():
    assert postgres_url("/run/a", database="iafactory") == "postgres://postgres@/iafactory?host=/run/a&port=5432"
    assert redis_url("/run/a/redis.sock", database=2) == "unix:///run/a/redis.sock?db=2"


def test_a_port_variable_of_the_user_does_not_hide_the_server(servers, monkeypatch):
    monkeypatch.setenv("PGPORT", "6543")

    servers.start()

    with psycopg.connect(servers.postgres.url()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_servers_end_with_the_process_that_started_them(tmp_path):
    command = [
        sys.executable,
        "-c",
        LEAVE_RUNNING.replace("servers.signal.SIGINT = signal.SIGCONT", "pass"),
        str(tmp_path),
    ]
    owner = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in owner.stdout.readline().split()]

    owner.kill()
    owner.wait()
    gone = wait_until(lambda: not any(_runs(pid) for pid in pids), seconds=30)

    assert gone


def test_servers_left_behind_are_replaced(tmp_path, servers):
    owner = subprocess.Popen(
        [sys.executable, "-c", LEAVE_RUNNING, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    postgres_pid, redis_pid = (int(pid) for pid in owner.stdout.readline().split())
    owner.kill()
    owner.wait()
    assert _runs(postgres_pid)

    servers.start()

    assert not _runs(postgres_pid)
    assert not _runs(redis_pid)
    with psycopg.connect(servers.postgres.url()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_stranger_with_the_recorded_pid_is_left_alone(tmp_path, servers):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    servers.start()
    data = servers.postgres.data
    servers.stop()
    (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n")
    (tmp_path / "redis" / "redis.pid").write_text(f"{stranger.pid}\n")

    servers.start()
    still_there = stranger.poll() is None
    stranger.kill()
    stranger.wait()

    assert still_there


def test_a_killed_postgres_recovers_what_was_committed(servers):
    servers.start()
    with psycopg.connect(servers.postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS amount")
    servers.postgres.process.send_signal(signal.SIGKILL)
    servers.postgres.process.wait()

    servers.postgres.start()

    with psycopg.connect(servers.postgres.url()) as connection:
        assert connection.execute("SELECT amount FROM kept").fetchone() == (7,)


def test_an_interrupted_first_start_is_done_again(tmp_path, servers):
    servers.start()
    unfinished = servers.postgres.data.with_name("data.new")
    servers.stop()
    servers.postgres.data.rename(unfinished)
    (unfinished / "PG_VERSION").write_text("")

    servers.start()

    with psycopg.connect(servers.postgres.url()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_folder_has_one_owner(tmp_path):
    with var_lock(tmp_path), pytest.raises(VarInUse) as refusal:
        var_lock(tmp_path).__enter__()

    with var_lock(tmp_path):
        owner = (tmp_path / "lock").read_text()
    assert str(refusal.value) == (
        f"{tmp_path} is in use by another run (process {os.getpid()}); stop it or set VAR to another folder"
    )
    assert owner == f"{os.getpid()}\n"


def test_secrets_are_made_once_and_private(tmp_path):
    first = local_secrets(tmp_path)
    local_secrets_save(tmp_path, {"DEMO_API_KEY": "iaf_test"})

    second = local_secrets(tmp_path)

    assert set(first) == {"SECRET_KEY", "FIELD_ENCRYPTION_KEYS", "JWT_SIGNING_KEY", "DEMO_ADMIN_PASSWORD"}
    assert second == first | {"DEMO_API_KEY": "iaf_test"}
    assert stat.S_IMODE((tmp_path / "secrets.env").stat().st_mode) == 0o600


def test_a_command_runs_between_start_and_stop_of_servers(tmp_path):
    script = "import os, psycopg; print(psycopg.connect(os.environ['DATABASE_URL']).execute('SELECT 41 + 1').fetchone()[0])"
    command = [
        sys.executable,
        "-m",
        "iafactory.local.with_servers",
        sys.executable,
        "-c",
        f"{script}; raise SystemExit(3)",
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}

    result = subprocess.run(
        command,
        cwd=PROJECT,
        env=environment | {"VAR": str(tmp_path / "var")},
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (result.returncode, result.stdout, result.stderr) == (3, "42\n", "")
    assert not (tmp_path / "var" / "run" / "redis.sock").exists()


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_alive(psutil.Process(pid))

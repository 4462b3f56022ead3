"""Who notices that beat is dead: every web process and every worker, by themselves.

A thread looks at the heartbeat twice a minute. When it is late the one alert about that is opened, followed, sent and resolved
from here, since nobody else may be left to do it; of many processes one opens it. It also says how many bookings wait.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from django.db import Error, close_old_connections, connection
from redis.exceptions import RedisError

from dashboard.jobs.selectors import heartbeat
from iafactory.common import clock

from .deliveries import deliveries_send
from .models import Alert, AlertRule
from .queues import queue_depth_tell
from .services import rules_look

logger = logging.getLogger(__name__)

EVERY_SECONDS = 30
# A product that was just started, after a night perhaps, gets as long until its own beat must have come up.
GRACE = timedelta(minutes=2)


class Watch:
    """The thread of one process. `depths`, where there is a queue of bookings, says how many wait."""

    def __init__(self) -> None:
        self.depths: Callable[[], Mapping[str, int]] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began: datetime | None = None

    def start(self, depths: Callable[[], Mapping[str, int]] | None = None) -> None:
        """Begin to look, if it has not begun."""
        if self._thread is None:
            self.depths = depths
            self._began = clock.now()
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="alert-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Look no more; a message on its way is not waited for, its lease runs out."""
        self._stop.set()
        self._thread = None

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            close_old_connections()
            try:
                self.look(clock.now())
            except Error as error:
                logger.warning("the watch over scheduled work cannot look: %s", error)
            except Exception:
                logger.exception("the watch over scheduled work failed")
            finally:
                # A connection of its own for a look of a millisecond is not kept.
                connection.close()

    def look(self, now: datetime) -> bool:
        """One look; whether scheduled work is found to stand still."""
        if self.depths is not None:
            try:
                queue_depth_tell(process=f"{socket.gethostname()}:{os.getpid()}", depths=self.depths(), now=now)
            except (RedisError, OSError) as error:
                logger.warning("waiting bookings could not be told: %s", error)
        late = heartbeat(now).late
        if late and self._began is not None and now - self._began < GRACE:
            return False
        if late or Alert.objects.filter(rule__kind=AlertRule.Kind.SCHEDULED_WORK, state=Alert.State.OPEN).exists():
            rules_look(now=now, kinds=[AlertRule.Kind.SCHEDULED_WORK])
            deliveries_send()
        return late


watch = Watch()

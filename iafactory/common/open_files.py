"""How many files and connections this process may have open."""

import contextlib
import logging
import resource

logger = logging.getLogger(__name__)


def open_files_allow(wanted: int) -> int:
    """Raise the soft limit towards `wanted`, as far as the hard one lets it; returns what holds now. Never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed < wanted:
        logger.warning("this process may open %d files; %d are better for many open streams (ulimit -n)", allowed, wanted)
    return allowed

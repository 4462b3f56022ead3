"""The HTTP client all adapters share."""

from __future__ import annotations

import aiohttp

# Every open stream is a connection for as long as its model writes: thousands of slow ones are a quiet day. What a provider
# takes at once is for its caps to say, which queue by priority; these bounds only keep a process from running out of files.
CONNECTIONS_TOTAL = 8192
CONNECTIONS_PER_HOST = 4096
# Below the 60 s after which common load balancers drop idle connections, so that a call rarely meets a closing one.
KEEPALIVE_SECONDS = 30


def open_session(
    *, connections_total: int = CONNECTIONS_TOTAL, connections_per_host: int = CONNECTIONS_PER_HOST
) -> aiohttp.ClientSession:
    """A pooled, bounded client without cookies or environment proxies. One per event loop; close it at the end.

    Adapters set timeouts per call and never follow redirects, so that a key is not sent to another host.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections_total,
            limit_per_host=connections_per_host,
            keepalive_timeout=KEEPALIVE_SECONDS,
            ttl_dns_cache=60,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        raise_for_status=False,
        headers={"User-Agent": "IAFactory/1"},
    )

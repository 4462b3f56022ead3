from tests.routing.providers.conftest import replay, session, target_at

__all__ = ["replay", "session", "target_at"]

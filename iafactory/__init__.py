"""IA Factory: an AI gateway with the billing behind it."""

from .celery import app as celery_app

__all__ = ("celery_app",)

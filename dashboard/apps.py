from importlib import import_module

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    name = "dashboard"
    verbose_name = "Console"

    def ready(self) -> None:
        # Connects the signals that note how jobs run.
        import_module("dashboard.jobs.record")

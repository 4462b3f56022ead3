from django.apps import AppConfig


class IAFactoryConfig(AppConfig):
    name = "iafactory"
    verbose_name = "IA Factory"

    def ready(self) -> None:
        from . import checks  # noqa: F401  registers the system checks
        from .common.error_reports import error_reports_start

        error_reports_start()

from django.apps import AppConfig


class IAFactoryConfig(AppConfig):
    name = "iafactory"
    verbose_name = "IA Factory"

    def ready(self) -> None:
        from . import checks  # noqa: F401  registers the system checks

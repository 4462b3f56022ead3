from importlib import import_module

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class DashboardConfig(AppConfig):
    name = "dashboard"
    verbose_name = _("Console")

    def ready(self) -> None:
        from .console.names import names_translate

        # The first app to be ready: no form is made before.
        names_translate()
        # Connects the signals that note how jobs run.
        import_module("dashboard.jobs.record")
        from billing.accounts.second_factor import second_factor_register

        from .two_factor.services import OperatorSecondFactor

        second_factor_register(OperatorSecondFactor())
        from .roles import roles_sync_after_migrate

        post_migrate.connect(roles_sync_after_migrate, dispatch_uid="roles")

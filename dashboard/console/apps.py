"""Puts the console in the place of Django's admin site: for INSTALLED_APPS, instead of `django.contrib.admin`."""

from importlib import import_module

from django.contrib.admin.apps import AdminConfig


class ConsoleAdminConfig(AdminConfig):
    default_site = "dashboard.console.site.IAFactoryAdminSite"

    def ready(self) -> None:
        super().ready()
        from django.contrib.auth.models import Permission

        from .names import permission_label
        from .shown import values_show

        values_show()
        # Forms, read-only pages and histories all say a permission as text.
        Permission.add_to_class("__str__", permission_label)
        import_module("dashboard.console.admin")
        import_module("dashboard.console.lots")
        import_module("dashboard.console.wizards.admin")
        import_module("dashboard.jobs.admin")
        import_module("dashboard.alerts.admin")
        import_module("dashboard.impersonation.admin")

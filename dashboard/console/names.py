"""Names of models and fields in the operator's language, also those that nobody wrote down because Django makes them.

`iafactory.local.translations` gathers the same names from the classes, so each of them is in the catalogues.
"""

from django.apps import apps
from django.db.models import Field
from django.utils import translation
from django.utils.functional import Promise, lazy
from django.utils.translation import gettext, gettext_lazy

OURS = ("billing", "dashboard", "ratelimit", "routing")


def names_translate() -> None:
    """Make the names of our models and their fields lazily translated. Migrations see what the classes say, as before.

    To be called before the first form of a model is made: labels are taken from here.
    """
    for app in apps.get_app_configs():
        if app.name not in OURS:
            continue
        for model in app.get_models():
            meta = model._meta
            if not isinstance(meta.verbose_name, Promise):
                meta.verbose_name = gettext_lazy(str(meta.verbose_name))
            if "verbose_name_plural" not in meta.original_attrs:
                meta.verbose_name_plural = _plural(meta.verbose_name)
            for field in meta.local_fields + meta.local_many_to_many:
                if isinstance(field, Field) and not isinstance(field.verbose_name, Promise):
                    field.verbose_name = gettext_lazy(str(field.verbose_name))


def _plural_now(name: str | Promise) -> str:
    """As Django makes it, looked up: other languages have plurals of their own."""
    with translation.override("en"):
        english = f"{name}s"
    return gettext(english)


_plural = lazy(_plural_now, str)

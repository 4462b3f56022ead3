"""Names of models and fields in the operator's language, also those that nobody wrote down because Django makes them.

`iafactory.local.translations` gathers the same names from the classes, so each of them is in the catalogues.
"""

from typing import TYPE_CHECKING

from django.apps import apps
from django.db.models import Field
from django.utils import translation
from django.utils.functional import Promise, lazy
from django.utils.text import capfirst
from django.utils.translation import gettext, gettext_lazy, pgettext, pgettext_lazy

if TYPE_CHECKING:
    from django.contrib.auth.models import Permission

OURS = ("billing", "dashboard", "ratelimit", "routing")
# What every model's permissions allow; those of a model's own are called as its class says.
DEEDS = {
    "add": pgettext_lazy("permission", "add"),
    "change": pgettext_lazy("permission", "change"),
    "delete": pgettext_lazy("permission", "delete"),
    "view": pgettext_lazy("permission", "view"),
}


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


def permission_label(permission: "Permission") -> str:
    """What a permission allows: "Accounts: view", where Django would say "Can view account" in English."""
    model = permission.content_type.model_class()
    if model is None:
        return permission.name
    deed, _line, thing = permission.codename.partition("_")
    what = DEEDS[deed] if deed in DEEDS and thing == model._meta.model_name else gettext(permission.name)
    return pgettext("permission", "%(things)s: %(what)s") % {"things": capfirst(model._meta.verbose_name_plural), "what": what}


def _plural_now(name: str | Promise) -> str:
    """As Django makes it, looked up: other languages have plurals of their own."""
    with translation.override("en"):
        english = f"{name}s"
    return gettext(english)


_plural = lazy(_plural_now, str)

"""What operators have begun over several pages and not finished."""

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from iafactory.common import clock
from iafactory.common.crypto import EncryptedTextField
from iafactory.common.ids import uuid7


class ConsoleDraft(models.Model):
    """What an operator entered so far; nothing of it counts before the last page. Forgotten after a day.

    Finished, it only remembers where its result is, so that a second submit leads there and does nothing.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=32)
    operator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    data = models.JSONField(default=dict, help_text=_("What was entered, page by page."))
    secret = EncryptedTextField(blank=True, help_text=_("A key that is not in use yet; gone with the last page."))
    result = models.CharField(max_length=300, blank=True, help_text=_("Where what came of it is; empty: not finished."))
    created_at = models.DateTimeField(default=clock.now, editable=False)
    updated_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        default_permissions = ()
        permissions = [("import_consoledraft", "Can import plans and prices from files")]
        indexes = [models.Index(fields=["updated_at"], name="consoledraft_updated")]

    def __str__(self) -> str:
        return self.kind

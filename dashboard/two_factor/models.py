"""What an operator proves themself with besides the password: an authenticator app, and codes for the day it is lost."""

from binascii import unhexlify
from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _
from django_otp.models import Device, ThrottlingMixin
from django_otp.oath import TOTP

from billing.accounts.models import User
from iafactory.common import clock
from iafactory.common.crypto import EncryptedTextField
from iafactory.common.ids import uuid7


class OperatorDevice(ThrottlingMixin, Device):
    """An operator's authenticator app (RFC 6238: six digits, 30 seconds, SHA-1). Each has one.

    After a wrong code the next is not looked at for 1 second, then 2, 4, 8…; the right one starts that again.
    """

    STEP_SECONDS = 30
    # A code of the step before or after counts, for clocks that differ.
    TOLERANCE_STEPS = 1

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="operator_device")
    secret = EncryptedTextField(help_text=_("160 bits, hexadecimal; stored encrypted."))
    last_step = models.BigIntegerField(default=-1, help_text=_("Step of the last code that was used: none works twice."))
    created_at = models.DateTimeField(default=clock.now, editable=False)

    objects: ClassVar[models.Manager["OperatorDevice"]] = models.Manager()

    class Meta:
        verbose_name = _("second factor")

    def get_throttle_factor(self) -> int:
        return 1

    def verify_token(self, token: str) -> bool:
        """Use up `token`; the caller has the row locked and looked at `verify_is_allowed`. Counts a failure."""
        if not (len(token) == 6 and token.isascii() and token.isdigit()):
            self.throttle_increment()
            return False
        totp = TOTP(unhexlify(self.secret), step=self.STEP_SECONDS)
        totp.time = clock.now().timestamp()
        if not totp.verify(int(token), tolerance=self.TOLERANCE_STEPS, min_t=self.last_step + 1):
            self.throttle_increment()
            return False
        self.last_step = totp.t()
        self.throttle_reset(commit=False)
        self.save()
        return True


class RecoveryCode(models.Model):
    """A code that stands in for the app once. Only its hash is kept."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="recovery_codes")
    code_hash = models.CharField(max_length=64, unique=True)
    used_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=clock.now, editable=False)

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return "used" if self.used_at else "unused"

"""How each scheduled job's last run went."""

from django.db import models
from django.utils.translation import gettext_lazy as _

RESULT_LENGTH = 500


class JobState(models.Model):
    """One row per task of the schedule, written by the workers that run it."""

    class Phase(models.TextChoices):
        RUNNING = "running", _("Running")
        DONE = "done", _("Done")
        FAILED = "failed", _("Failed")

    task = models.CharField(max_length=200, primary_key=True)
    state = models.CharField(max_length=8, choices=Phase)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    succeeded_at = models.DateTimeField(null=True, blank=True, help_text=_("When it last ended well."))
    milliseconds = models.PositiveIntegerField(null=True, blank=True, help_text=_("Length of the last run that ended."))
    result = models.CharField(max_length=RESULT_LENGTH, blank=True, help_text=_("What it answered, or why it failed."))
    runs = models.PositiveBigIntegerField(default=0)
    failures = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ["task"]

    def __str__(self) -> str:
        return self.task

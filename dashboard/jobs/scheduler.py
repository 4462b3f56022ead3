"""The schedule of the settings, kept in the database so that operators can switch jobs off."""

from django.conf import settings
from django.db.models import QuerySet
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler


class Scheduler(DatabaseScheduler):
    """django-celery-beat's scheduler, with two differences.

    A job that was missed while beat was down runs once as soon as beat is back: the original leaves out daily jobs whose
    hour is more than two hours away, and so skips the day. A job that is no longer in the settings is removed.
    """

    def setup_schedule(self) -> None:
        super().setup_schedule()
        PeriodicTask.objects.exclude(name__in=settings.CELERY_BEAT_SCHEDULE).delete()

    def enabled_models_qs(self) -> QuerySet[PeriodicTask]:
        enabled: QuerySet[PeriodicTask] = self.Model.objects.enabled()
        return enabled

"""Pages of the console and the site."""

from django.urls import URLPattern, path

from .metrics import metrics
from .readiness import Ready
from .site.views import home

urlpatterns: list[URLPattern] = [
    path("", home, name="home"),
    path("health/ready", Ready.as_view(), name="ready"),
    path("metrics", metrics, name="metrics"),
]

"""Pages of the console and the site."""

from django.urls import URLPattern, path

from .site.views import home

urlpatterns: list[URLPattern] = [path("", home, name="home")]

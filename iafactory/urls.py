"""Every address of the product. Hot paths are served by the slim handler; they are listed for the API's description."""

from csp.constants import SELF
from csp.decorators import csp_update
from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularRedocView, SpectacularSwaggerSplitView

from dashboard.urls import before_console

from . import error_pages

# Redoc makes style elements, empty ones that it fills by script and one of its own: these two, by their
# SHA-256, and no other. Its search runs in a worker that it makes of its own file.
REDOC_POLICY = {
    "style-src": [
        SELF,
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",  # pragma: allowlist secret
        "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='",  # pragma: allowlist secret
    ],
    "worker-src": [SELF, "blob:"],
}

urlpatterns = [
    *before_console,
    path("admin/", admin.site.urls),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="openapi"),
    path("docs", SpectacularSwaggerSplitView.as_view(url_name="openapi"), name="docs"),
    path(
        "redoc",
        csp_update(REDOC_POLICY)(SpectacularRedocView.as_view(url_name="openapi")),
        name="redoc",
    ),
    path("", include("routing.hot_urls")),
    path("", include("billing.urls")),
    path("", include("routing.urls")),
    path("", include("dashboard.urls")),
]

handler400 = error_pages.bad_request
handler403 = error_pages.permission_denied
handler404 = error_pages.not_found
handler500 = error_pages.server_error

"""Every address of the product. Hot paths are served by the slim handler; they are listed for the API's description."""

from csp.constants import SELF
from csp.decorators import csp_update
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.defaults import page_not_found, server_error
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularRedocView, SpectacularSwaggerSplitView

from dashboard.urls import before_console
from iafactory.common.errors import ApiError, error_body
from iafactory.common.rendering import encode_json

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
API_PREFIXES = ("/api/", "/v1/")

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


def _api_error(request: HttpRequest, error: ApiError) -> HttpResponse:
    body = encode_json(error_body(error, request.path, translated=True))
    return HttpResponse(body, status=error.status, content_type="application/json")


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """JSON for programs, a page for people."""
    if request.path.startswith(API_PREFIXES):
        return _api_error(request, ApiError(404, "not_found", "There is no such address."))
    return page_not_found(request, exception)


def handler500(request: HttpRequest) -> HttpResponse:
    """JSON for programs, a page for people."""
    if request.path.startswith(API_PREFIXES):
        return _api_error(request, ApiError(500, "internal_error", "Something went wrong on our side."))
    return server_error(request)

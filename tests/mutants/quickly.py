"""Pytest plugin of the mutants' runs: a failure is enough, so hypothesis need not shrink what it found."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Replaces the profile that conftest has loaded; the counts stay."""
    settings.register_profile(
        "mutants",
        parent=settings.get_profile("normal"),
        phases=(Phase.explicit, Phase.generate),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutants")

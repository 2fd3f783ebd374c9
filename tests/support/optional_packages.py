"""Tests that need optional packages skip visibly where they are missing, but never in continuous integration."""

import importlib.util
import os

import pytest

from caloedge.extras import cure, extra_of


def need(*packages: str) -> None:
    """Skip where optional packages are missing, but never in continuous integration."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        assert os.environ.get("CI") != "true", f"{', '.join(missing)} missing in continuous integration"
        pytest.skip(f"{', '.join(missing)} not installed; {cure(extra_of(missing[0]))}")

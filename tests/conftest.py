"""For all tests. A machine that is busy elsewhere is no fault of the code under test."""

from hypothesis import settings

# Hypothesis' own deadline counts milliseconds of wall clock; tests that wait have one of ours.
settings.register_profile("wsraw", deadline=None)
settings.load_profile("wsraw")

# Also where wsraw is not installed, and its entry point does not do it.
pytest_plugins = ["pytester", "wsraw.testing.plugin"]

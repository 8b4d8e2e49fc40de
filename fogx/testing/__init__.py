"""Contract suites for plug-ins: subclass one as `Test...`, set the plug-in, and pytest runs every check of its protocol."""

from __future__ import annotations

from fogx.errors import missing_extra

try:
    import pytest
except ImportError:
    raise missing_extra("pytest", "dev", "fogx.testing") from None

# Without it a failed check would say only `AssertionError`, not what was found.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("codecs", "episodes", "executors", "exporters", "loaders"))
)

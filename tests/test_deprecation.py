from __future__ import annotations

import pytest

from fogx.deprecation import warn_deprecated


def old_name() -> None:
    warn_deprecated("Dataset.old()", since="0.2", removed_in="0.4", use="Dataset.new()")


def test_users_see_it_at_their_own_line() -> None:
    # FutureWarning, because Python hides DeprecationWarning from users.
    with pytest.warns(FutureWarning) as caught:
        old_name()
    (warning,) = caught
    assert str(warning.message) == "Dataset.old() is deprecated since fogx 0.2 and goes in 0.4. Use Dataset.new() instead."
    assert warning.filename == __file__
    assert warning.lineno == test_users_see_it_at_their_own_line.__code__.co_firstlineno + 3

"""How a public name or argument is retired."""

from __future__ import annotations

import warnings


def warn_deprecated(what: str, *, since: str, removed_in: str, use: str) -> None:
    """Warn that the caller of the calling function uses something on its way out.

    Args:
        what: What is deprecated, as the user typed it (`Dataset.old(x=)`).
        since: Version that deprecated it.
        removed_in: Version that removes it.
        use: What to type instead.
    """
    warnings.warn(
        f"{what} is deprecated since fogx {since} and goes in {removed_in}. Use {use} instead.",
        FutureWarning,
        stacklevel=3,
    )

"""Files made older than they are, for what goes by the time of their last change."""

import os
import time

_EIGHT_DAYS_S = 8 * 24 * 3600
"""More than the safe age of a dataset."""


def make_older(folder):
    """Set back the time of every file below a folder past the safe age; what is changed later is new."""
    then = time.time() - _EIGHT_DAYS_S
    for path, _, names in os.walk(folder):
        for name in names:
            os.utime(os.path.join(path, name), (then, then))

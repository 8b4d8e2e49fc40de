"""What a figure of `fogx.show.plots` shows, as numbers."""

import numpy as np
from matplotlib.collections import LineCollection


def drawn(row, label):
    """Return the points of what a row draws under a label, element by element."""
    return [np.column_stack(line.get_data()).tolist() for line in row.get_lines() if line.get_label() == label]


def links(row):
    """Return the lines from samples to steps."""
    found = [c for c in row.collections if isinstance(c, LineCollection) and c.get_alpha() == 0.8]
    return [segment.tolist() for collection in found for segment in collection.get_segments()]

"""Reads a TFDS folder with TensorFlow itself and dumps every value, for comparison with what fogx reads and writes.

Run in a process of its own: `python read_with_tf.py BUILDER_DIR SPLIT OUT.npz`. Every leaf becomes one array; keys are
`<episode>/<path>` and, for steps, `<episode>/steps/<step>/<path>`. Text becomes its bytes as uint8, with `|string` after the key,
and, for arrays of text, one entry an element. Images are decoded by TensorFlow. Nothing is pickled.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds


def leaves(value, key):
    """Yield (key, array) of everything below a nested value."""
    if isinstance(value, dict):
        for name in sorted(value):
            yield from leaves(value[name], f"{key}/{name}")
    elif isinstance(value, tf.data.Dataset):
        count = 0
        for count, step in enumerate(value, start=1):
            yield from leaves(step, f"{key}/{count - 1}")
        yield f"{key}#", np.int64(count)
    elif value.dtype == tf.string:
        if isinstance(value, tf.RaggedTensor):
            value = value.to_tensor()
        if value.shape.rank == 0:
            yield f"{key}|string", np.frombuffer(value.numpy(), np.uint8)
        else:
            for i, item in enumerate(value):
                yield from leaves(item, f"{key}/{i}")
    else:
        yield key, value.numpy()


def main(folder, split, out):
    builder = tfds.builder_from_directory(folder)
    # One file after the other, so that the order is that of the records.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    dataset = builder.as_dataset(split=split, read_config=config)
    found = {}
    for index, episode in enumerate(dataset):
        found.update(leaves(episode, str(index)))
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

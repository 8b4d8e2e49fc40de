import numpy as np
import pytest

import fogx.settings as settings
from fogx.recording.cameras import camera_codec, looks_like_camera

PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("shape", "dtype", "camera"),
    [
        ((32, 32, 3), "uint8", True),
        ((32, 32), "uint8", True),
        ((32, 32), "uint16", True),
        ((31, 32, 3), "uint8", False),
        ((480, 31), "uint8", False),
        ((3, 480, 640), "uint8", False),
        ((48, 64, 4), "uint8", False),
        ((48, 64, 1), "uint8", False),
        ((48, 64, 3), "uint16", False),
        ((48, 64), "float32", False),
        ((48, 64), "bool", False),
        ((2, 48, 64, 3), "uint8", False),
        ((), "uint8", False),
    ],
)
def test_what_counts_as_a_camera(shape, dtype, camera):
    assert looks_like_camera(np.zeros(shape, dtype)) is camera


def test_photographs_are_jpeg_unless_configured():
    assert camera_codec("observation/image", PHOTO) == "jpeg"
    settings.config(image="png")
    try:
        assert camera_codec("observation/image", PHOTO) == "png"
    finally:
        settings.config(image="jpeg")


@pytest.mark.parametrize("name", ["mask", "wrist_Depth", "segmentation", "labels/image"])
def test_telling_names_are_lossless(name):
    assert camera_codec(name, PHOTO) == "png"


def test_other_than_rgb_is_lossless():
    assert camera_codec("image", PHOTO[..., 0]) == "png"
    assert camera_codec("image", np.concatenate([PHOTO, PHOTO], axis=2)[..., :4]) == "png"


def test_few_colours_are_lossless_also_in_large_images():
    image = np.zeros((480, 640, 3), np.uint8)
    assert camera_codec("image", image) == "png"
    image[..., 0] = np.arange(640) // 3  # 214 colours
    assert camera_codec("image", image) == "png"
    image[..., 1] = (np.arange(480) // 2)[:, None]
    assert camera_codec("image", image) == "jpeg"

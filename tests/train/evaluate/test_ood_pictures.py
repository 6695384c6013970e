"""Pictures that no caption fits."""

import numpy as np

from im2sp.train.evaluate.ood_pictures import ood_pictures


def test_pictures_are_always_the_same_and_all_different() -> None:
    pictures, again = ood_pictures(), ood_pictures()
    assert {name.partition("-")[0] for name in pictures} == {"blank", "noise", "gradient", "text", "chart", "code"}
    assert all(np.array_equal(picture, again[name]) for name, picture in pictures.items())
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures) == 4 + 6 * 4
    assert {(picture.mode, picture.size) for picture in pictures.values()} == {("RGB", (480, 360))}

"""Batches of images: normalisation, augmentation, and data that cannot be learnt."""

import pytest
import torch

from harness.core import BenchError
from harness.toolkit import images as image_data
from harness.toolkit.images import ImageData, Images, flip_and_crop, shift


def split(labels, channels: int = 1) -> Images:
    n = len(labels)
    pixels = torch.arange(n * channels * 16).remainder(256).view(n, channels, 4, 4)
    return Images(
        pixels=pixels.to(torch.uint8),
        labels=torch.tensor(labels),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_normalised_by_channel(channels):
    images = split([0, 1, 0], channels)
    got, labels = images.batch(torch.tensor([2, 0]))
    want = (images.pixels[[2, 0]].double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    assert labels.tolist() == [0, 0]
    once, _ = images.to(torch.device("cpu")).batch(torch.tensor([2, 0]))
    assert torch.equal(got, once)


def test_augmentation_is_drawn_only_for_training_batches():
    calls = []
    images = split([0, 1])
    images = Images(
        pixels=images.pixels, labels=images.labels, mean=(0.5,), std=(0.25,),
        augment=lambda x, rng: calls.append(1) or x,
    )  # fmt: skip
    images.batch(torch.tensor([0]))
    assert not calls
    images.batch(torch.tensor([0]), torch.Generator())
    assert calls == [1]


@pytest.mark.parametrize(("augment", "pad"), [(flip_and_crop, 1), (shift, 2)])
def test_each_augmented_image_is_a_window_of_its_padded_original(augment, pad):
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(40, 2, 8, 8, generator=rng) + 1  # no zero inside
    got = augment(images, rng)
    padded = torch.nn.functional.pad(images, (pad,) * 4)
    found = set()
    for one, whole in zip(got, padded, strict=True):
        windows = {
            (top, left, flip): (w.flip(2) if flip else w)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for flip in (False, True)
            for w in [whole[:, top : top + 8, left : left + 8]]
        }
        matches = [key for key, window in windows.items() if torch.equal(window, one)]
        assert matches
        found.update(matches)
    assert len(found) > 10  # each image has its own place
    assert any(flip for _, _, flip in found) == (augment is flip_and_crop)


def data(train, *, classes=2) -> ImageData:
    other = split([0, 1])
    return ImageData(train=train, validation=other, test=other, classes=classes)


def test_one_class_only_is_refused():
    with pytest.raises(BenchError, match="1 class; a classifier needs 2"):
        data(split([0, 0]), classes=1).check("toy")


def test_labels_out_of_range_are_refused_with_the_range():
    with pytest.raises(
        BenchError, match=r"split train has labels from 0 to 5; .* 0 to 1"
    ):
        data(split([0, 5])).check("toy")


def test_a_class_without_training_images_is_named():
    with pytest.raises(BenchError, match="toy has no training image of class 1"):
        data(split([0, 0])).check("toy")


def test_a_split_without_images_is_named():
    with pytest.raises(BenchError, match="split train has no images"):
        data(split([0]).take(torch.tensor([], dtype=torch.long))).check("toy")


def test_batches_go_to_the_device_also_where_all_pixels_stay_on_the_host(monkeypatch):
    monkeypatch.setattr(image_data, "_ON_DEVICE_BYTES", 0)

    there = split([0, 1]).to(torch.device("meta"))  # a device without memory
    images, labels = there.batch(torch.tensor([1]))

    assert there.pixels.device.type == "cpu"
    assert images.device.type == labels.device.type == "meta"
    assert images.shape == (1, 1, 4, 4)

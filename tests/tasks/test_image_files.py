"""Image data from files: the hub's cache, image folders, decoding once."""

import numpy as np
import pytest
import torch
from PIL import Image

from harness.core import BenchError
from harness.registry import find
from tasks._images import decoded, hub
from tasks.imagenet_folder import ImageNetFolder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for label in ("cat", "dog"):
            place = tmp_path / "images" / split / label
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "images"


def test_a_folder_for_each_class_becomes_splits(folder):
    data = ImageNetFolder(path=str(folder), side=14, validation=0.25).data()
    sizes = [len(s) for s in (data.train, data.validation, data.test)]
    assert sizes == [9, 3, 4]
    assert data.shape == {"classes": 2, "input": [3, 14, 14]}
    assert data.test.labels.tolist() == [0, 0, 1, 1]


def test_the_middle_of_the_scaled_image_is_what_is_read(folder):
    whole = Image.new("RGB", (160, 80))
    whole.paste((255, 0, 0), (40, 0, 120, 80))  # the middle square
    whole.save(folder / "val" / "cat" / "0.png")
    data = ImageNetFolder(path=str(folder), side=14).data()
    red = data.test.pixels[0]
    assert (red[0] > 250).all()
    assert (red[1:] < 5).all()


def test_a_broken_file_is_named(folder):
    (folder / "train" / "dog" / "3.png").write_bytes(b"no image")
    (folder / "train" / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(BenchError) as caught:
        ImageNetFolder(path=str(folder), side=14).data()
    assert len(caught.value.errors) == 2
    assert "cat/1.png cannot be read" in caught.value.errors[0]
    assert not list(decoded.cache_folder().glob("*/labels.npy"))  # nothing half done


def test_an_empty_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(BenchError, match=r"PATH/train/CLASS/NAME\.jpeg"):
        ImageNetFolder(path=str(tmp_path)).fingerprint()


def test_a_class_that_only_the_test_images_have_is_named(folder):
    (folder / "val" / "dog").rename(folder / "val" / "emu")
    with pytest.raises(BenchError, match="classes that train has not: emu"):
        ImageNetFolder(path=str(folder), side=14).data()


def test_the_fingerprint_moves_with_the_files_and_not_with_the_place(folder):
    before = ImageNetFolder(path=str(folder)).fingerprint()
    moved = folder.rename(folder.with_name("elsewhere"))
    assert ImageNetFolder(path=str(moved)).fingerprint() == before
    image = moved / "train" / "cat" / "0.png"
    image.write_bytes(image.read_bytes()[::-1])  # of equal size
    assert ImageNetFolder(path=str(moved)).fingerprint() != before


def test_images_are_decoded_once_and_mapped_where_they_are_many(monkeypatch):
    def rows():
        yield np.full((1, 2, 2), 7, dtype=np.uint8), 3
        yield np.full((1, 2, 2), 9, dtype=np.uint8), 1

    def never():
        raise AssertionError("decoded twice")

    decoded.once("key", (2, 1, 2, 2), rows)
    monkeypatch.setattr(decoded, "_READ_WHOLE_BYTES", 0)
    pixels, labels = decoded.once("key", (2, 1, 2, 2), never)
    assert pixels[:, 0, 0, 0].tolist() == [7, 9]
    assert labels.tolist() == [3, 1]
    assert labels.dtype == torch.int64


@pytest.mark.slow  # decodes 70,000 images
def test_mnist_is_read_whole_from_the_hubs_cache(offline_datasets):
    task = find("task", "mnist").build({})
    data = task.data()
    assert [len(s) for s in (data.train, data.validation, data.test)] == [
        54_000, 6_000, 10_000,
    ]  # fmt: skip
    # The counts of the test digits 0 to 9, as published with the data set.
    counts = torch.bincount(data.test.labels).tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = torch.cat([data.train.pixels, data.validation.pixels]).double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert "train60000" in task.fingerprint()


def test_cifar10_has_three_channels_and_names_its_subset(offline_datasets):
    task = find("task", "cifar10").build({})
    assert "train10000+test2000" in task.fingerprint()
    assert task.data().shape == {"classes": 10, "input": [3, 32, 32]}


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar100"])
def test_data_that_is_not_here_says_what_to_do(name, offline_datasets):
    with pytest.raises(BenchError, match="shrinkgrid prepare"):
        find("task", name).build({}).fingerprint()


def test_every_hub_task_has_statistics_for_each_channel():
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100"):
        task = find("task", name).cls
        assert issubclass(task, hub.HubImages)
        assert len(task.mean) == len(task.std) == task.channels


def test_no_image_task_goes_by_another_name_than_its_own():
    # The engine calls a task by its attribute `label`, where it has one.
    for name in ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100"):
        assert not hasattr(find("task", name).build({}), "label")

"""The digits task: splits, metrics, protocol."""

import gzip
import math

import pytest
import torch
from torch import nn

from harness.core import Model
from tasks import digits
from tasks._images.classification import classification
from tasks.digits import Digits


def identity(images) -> set[bytes]:
    return {bytes(row.numpy().tobytes()) for row in images.pixels}


def test_the_splits_share_no_image_and_cover_all():
    data = Digits().data()
    sizes = [len(s) for s in (data.train, data.validation, data.test)]
    assert sizes == [1293, 144, 360]
    parts = [identity(s) for s in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_the_images_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    found = digits._arrays("any")
    assert torch.equal(found[0], torch.from_numpy(pixels))
    assert torch.equal(found[1], torch.from_numpy(labels).long())


def test_one_changed_pixel_is_other_data(tmp_path, monkeypatch):
    before, first = Digits().fingerprint(), Digits().data().test.pixels
    path = tmp_path / "digits.csv.gz"
    lines = gzip.decompress(digits._file().read_bytes()).decode().splitlines()
    changed = ["1" + line[line.index(",") :] for line in lines]  # the first pixel
    path.write_bytes(gzip.compress("\n".join(changed).encode()))
    monkeypatch.setattr(digits, "_file", lambda: path)
    assert Digits().fingerprint() != before
    assert Digits().training().split(":test")[0] not in before
    assert not torch.equal(Digits().data().test.pixels, first)


def test_the_test_split_does_not_move_with_the_split_seed():
    first, second = Digits().data(), Digits(split_seed=1).data()
    assert torch.equal(first.test.pixels, second.test.pixels)
    assert identity(first.validation) != identity(second.validation)


def test_selecting_on_test_is_another_protocol_that_trains_on_everything():
    chosen = Digits(select_on="test")
    assert len(chosen.data().train) == 1437
    assert chosen.data().validation is chosen.data().test
    assert chosen.protocol() != Digits().protocol()
    assert chosen.training() != Digits().training()


def test_a_limit_takes_a_part_of_the_training_images_only():
    data = Digits(limit=100).data()
    assert [len(data.train), len(data.validation), len(data.test)] == [100, 144, 360]


@pytest.mark.parametrize(("field", "value"), [("validation", 0.0), ("limit", 0)])
def test_an_empty_split_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        Digits(**{field: value})


def test_unit_inputs_leave_black_at_0_and_white_at_1():
    for task in (Digits(inputs="unit"), Digits()):
        images, _ = task.data().train.batch(torch.arange(1293))
        if task.inputs == "unit":
            assert images.aminmax() == (0, 1)
        else:
            assert images.mean().item() == pytest.approx(0, abs=0.01)
    assert Digits(inputs="unit").training() != Digits().training()


class Constant(nn.Module):
    """Says class 3 whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(10))

    def forward(self, images):
        return (self.logits + nn.functional.one_hot(torch.tensor(3), 10)).expand(
            len(images), 10
        )


def test_a_constant_answer_is_right_as_often_as_its_class_occurs():
    task = Digits()
    model = Model(name="c", net=Constant(), kind="classifier", roles={}, example=dict)
    points = {m.metric: m for m in task.evaluate(model)}
    labels = task.data().test.labels
    share = (labels == 3).float().mean().item()
    assert points["accuracy"].value == pytest.approx(share)
    assert points["accuracy"].values == (labels == 3).double().tolist()
    # No constant answer is right more often than the most frequent class.
    most = max((labels == c).double().mean().item() for c in range(10))
    assert points["accuracy"].chance == pytest.approx(most)
    assert points["accuracy_class_3"].value == 1
    assert points["accuracy_class_4"].value == 0
    # loss: log(9 + e) - [class is 3]
    assert points["loss"].value == pytest.approx(math.log(9 + math.e) - share)


def test_metrics_of_hand_worked_logits():
    logits = torch.tensor([[2.0, 1, 0, 0, 0, 0], [0, 0, 1, 2, 3, 4.0]])
    labels = torch.tensor([1, 5])
    points = {m.metric: m for m in classification(logits, labels)}
    assert points["accuracy"].value == 0.5
    assert points["accuracy"].stderr == pytest.approx(0.5)  # sqrt(1/2) / sqrt(2)
    assert points["top5_accuracy"].value == 1.0
    assert points["accuracy"].n == 2


def test_a_uniform_guess_has_the_loss_log_classes():
    points = {m.metric: m for m in classification(torch.zeros(7, 10), torch.arange(7))}
    assert points["loss"].value == pytest.approx(math.log(10))

import pytest
import torch

from harness.toolkit.optimizer import half_precision


@pytest.mark.parametrize(
    ("native", "own_rule", "wanted"),
    [
        (True, False, torch.bfloat16),
        (True, True, torch.bfloat16),
        (False, False, torch.float16),
        (False, True, None),  # the scaler of float16 would apply its own step
    ],
)
def test_mixed_precision_is_bfloat16_only_where_the_gpu_computes_in_it(
    monkeypatch, native, own_rule, wanted
):
    def supported(*, including_emulation: bool = True) -> bool:
        return native or including_emulation  # as a V100 or T4 answers

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)

    assert half_precision(own_rule=own_rule) == wanted

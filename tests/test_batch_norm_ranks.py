"""Batch normalization in several processes: synchronized on GPUs, averaged on CPUs."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from segkit.runtime import distributed


def test_sync_batchnorm_keeps_the_activations_of_timm():
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            BatchNormAct2d(8, act_layer=nn.SiLU),
            nn.Conv2d(8, 6, 1, bias=False),
            BatchNormAct2d(6, act_layer=nn.ReLU),
            BatchNormAct2d(6, apply_act=False),
            nn.BatchNorm2d(6),
        ).double(),
        torch.randn(5, 3, 6, 7, dtype=torch.float64),
    )
    converted = distributed.convert_sync_batchnorm(copy.deepcopy(model))
    kinds = [isinstance(module, nn.SyncBatchNorm) for module in converted]
    assert kinds == [False, True, False, True, True, True]
    assert converted.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(converted.eval()(x), model.eval()(x))


def test_sync_batchnorm_refuses_a_norm_with_its_own_forward():
    class Own(nn.BatchNorm2d):
        def forward(self, input):
            return 2 * super().forward(input)

    with pytest.raises(ValueError, match=r"several processes: Own overrides .*\. Train it in one process"):
        distributed.convert_sync_batchnorm(nn.Sequential(Own(3)))


def test_running_statistics_are_averaged_over_processes(monkeypatch):
    model = nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)
    )
    for index, buffer in enumerate(model.buffers()):
        buffer.fill_(index)
    other = [buffer + 4 for buffer in model.buffers() if buffer.is_floating_point()]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda t: t + torch.cat([b.flatten() for b in other]))
    before = copy.deepcopy(model)
    distributed.average_statistics(model)
    for new, old in zip(model.buffers(), before.buffers(), strict=True):
        torch.testing.assert_close(new, old + 2 if old.is_floating_point() else old)

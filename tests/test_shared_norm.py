"""Batch normalisation over processes: each with a part of the batch, all with the statistics of the whole."""

import copy
import threading

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from segkit.models.layers.pooled_norm import PooledBatchNorm
from segkit.system import distributed, replicas


class Exchange:
    """What several processes' sums and rows would be, for threads: CPU backward passes run in their own."""

    def __init__(self, count):
        self.count, self.barrier, self.rows = count, threading.Barrier(count, timeout=60), {}
        self.local = threading.local()

    def gather_rows(self, row):
        self.barrier.wait()
        self.rows[self.local.rank] = row
        self.barrier.wait()
        return torch.stack([self.rows[rank] for rank in range(self.count)])

    def all_reduce_sum(self, tensor):
        return self.gather_rows(tensor).sum(0)

    def run(self, work):
        """``work(rank)`` in one thread a rank: what each returned."""
        found = {}

        def one(rank):
            self.local.rank = rank
            found[rank] = work(rank)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [found[rank] for rank in range(self.count)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_parts_are_normalised_as_the_whole_batch_is(count, dtype, limit, monkeypatch):
    generator = torch.Generator().manual_seed(count)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    for trial in range(12):
        sizes = torch.randint(1, 4, (count,), generator=generator).tolist()
        channels, height, width = torch.randint(2, 9, (3,), generator=generator).tolist()
        layout = torch.channels_last if trial % 2 else torch.contiguous_format
        x = (3 * draw(sum(sizes), channels, height, width) + 40 * draw(1, channels, 1, 1)).to(
            memory_format=layout
        )
        wanted = draw(*x.shape)
        whole = nn.BatchNorm2d(channels).to(dtype)
        whole.weight.data, whole.bias.data = draw(channels), draw(channels)
        norms = [replicas.SharedBatchNorm(channels).to(dtype) for _ in range(count)]
        for norm in norms:
            norm.load_state_dict(whole.state_dict())
        x.requires_grad_()
        expected = whole(x)
        (expected * wanted).sum().backward()
        parts = [part.detach().clone().requires_grad_() for part in x.split(sizes)]
        exchange = Exchange(count)
        if count > 1:
            monkeypatch.setattr(distributed, "gather_rows", exchange.gather_rows)
            monkeypatch.setattr(distributed, "all_reduce_sum", exchange.all_reduce_sum)

        shares = wanted.split(sizes)

        def work(rank, parts=parts, norms=norms, wanted=shares):
            found = norms[rank](parts[rank])
            (found * wanted[rank]).sum().backward()
            return found

        found = torch.cat(exchange.run(work))
        close = {"rtol": limit, "atol": limit * 40}
        torch.testing.assert_close(found, expected, **close)
        torch.testing.assert_close(torch.cat([part.grad for part in parts]), x.grad, **close)
        for name in ("weight", "bias"):
            total = sum(getattr(norm, name).grad for norm in norms)
            torch.testing.assert_close(total, getattr(whole, name).grad, **close)
        for norm in norms:
            torch.testing.assert_close(norm.running_mean, whole.running_mean, **close)
            torch.testing.assert_close(norm.running_var, whole.running_var, **close)
            assert norm.num_batches_tracked == 1


def test_halves_are_computed_in_float32_and_given_back_as_they_came():
    torch.manual_seed(0)
    norm, x = replicas.SharedBatchNorm(5), torch.randn(4, 5, 6, 7)
    half = x.bfloat16().requires_grad_()
    whole = half.detach().float().requires_grad_()
    found, expected = norm(half), nn.BatchNorm2d(5)(whole)
    found.sum().mul(3).backward()
    assert found.dtype == half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16())
    found, wanted = norm(half), torch.randn_like(x)
    half.grad = None
    (found * wanted.bfloat16()).sum().backward()
    (nn.BatchNorm2d(5)(whole) * wanted.bfloat16().float()).sum().backward()
    torch.testing.assert_close(half.grad, whole.grad.bfloat16(), rtol=0.02, atol=1e-3)


def activated(seed=0):
    """Convolutions with timm's normalisation, which activates as well."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        BatchNormAct2d(8, act_layer=nn.SiLU),
        nn.Conv2d(8, 6, 1, bias=False),
        BatchNormAct2d(6, act_layer=nn.ReLU),
        BatchNormAct2d(6, apply_act=False),
        nn.BatchNorm2d(6),
    ).double()


def test_an_activation_inside_a_normalisation_stays_where_processes_share_statistics(monkeypatch):
    # they were normalised alone, in training on several processes, and activated when they were scored
    whole, x = activated(), torch.randn(5, 3, 6, 7, dtype=torch.float64)
    models = [
        replicas.with_shared_statistics(copy.deepcopy(whole), torch.device("cpu")),
        replicas.with_shared_statistics(copy.deepcopy(whole), torch.device("cpu")),
    ]
    expected = whole(x)
    expected.square().sum().backward()
    exchange, parts = Exchange(2), x.split([2, 3])
    monkeypatch.setattr(distributed, "gather_rows", exchange.gather_rows)
    monkeypatch.setattr(distributed, "all_reduce_sum", exchange.all_reduce_sum)

    def work(rank):
        found = models[rank](parts[rank])
        found.square().sum().backward()
        return found.detach()

    close = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(torch.cat(exchange.run(work)), expected.detach(), **close)
    for one, *others in zip(whole.parameters(), *(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(sum(other.grad for other in others), one.grad, rtol=1e-9, atol=1e-9)
    for model in models:
        torch.testing.assert_close(model.eval()(x), whole.eval()(x), **close)


def test_on_a_gpu_an_activation_inside_a_normalisation_stays_too():
    whole, x = activated(), torch.randn(5, 3, 6, 7, dtype=torch.float64)
    shared = replicas.with_shared_statistics(copy.deepcopy(whole), torch.device("cuda", 0))
    assert [isinstance(part, nn.SyncBatchNorm) for part in shared] == [False, True, False, True, True, True]
    assert shared.state_dict().keys() == whole.state_dict().keys()
    torch.testing.assert_close(shared.eval()(x), whole.eval()(x))


def test_a_normalisation_of_another_name_is_shared_and_twice_is_as_once():
    class Slow(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels, momentum=0.01)

    model = nn.Sequential(Slow(3), BatchNormAct2d(3), PooledBatchNorm(3))
    for _ in range(2):
        replicas.with_shared_statistics(model, torch.device("cpu"))
        kinds = [replicas.SharedBatchNorm, replicas.SharedBatchNormAct, replicas.SharedBatchNorm]
        assert [type(part) for part in model] == kinds


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_normalisation_that_would_be_replaced_by_another_is_refused(device):
    class Own(nn.BatchNorm2d):
        def forward(self, input):
            return 2 * super().forward(input)

    with pytest.raises(ValueError, match=r"several processes: Own is .*; train it in one process"):
        replicas.with_shared_statistics(nn.Sequential(Own(3)), torch.device(device))

"""Batch normalisation over processes: each with a part of the batch, all with the statistics of the whole."""

import threading

import pytest
import torch
from torch import nn

from segkit.system import distributed


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
        norms = [distributed.SharedBatchNorm(channels).to(dtype) for _ in range(count)]
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
    norm, x = distributed.SharedBatchNorm(5), torch.randn(4, 5, 6, 7)
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

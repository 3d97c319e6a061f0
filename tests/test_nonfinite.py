"""Steps that are not finite stop a run, or are left out without a trace."""

from unittest.mock import Mock

import pytest
import torch
from test_training import batch, start_run, weights

from segkit import training


def poison(seed=0):
    """A batch that makes the loss NaN."""
    return batch(seed=seed)._replace(image=torch.full((4, 3, 6, 7), float("nan")))


def step(run, data):
    training.train_step(run, [data])


def test_nonfinite_loss_stops_with_recent_steps():
    run = start_run()
    step(run, batch())
    step(run, poison())
    step(run, batch())  # nothing waits for the device at each step ...
    with pytest.raises(ValueError, match="iteration 2 is not finite: loss_main nan") as stopped:
        run.state()  # ... but such a state is not handed out to be saved
    words = "norm of the gradient nan; learning rate backbone 0.45"  # (1 - 1/10)^0.9 of 0.5
    for part in (words, "samples 0, 1, 2, 3", "resume=true"):
        assert part in str(stopped.value)


def test_nonfinite_loss_is_found_within_ten_iterations():
    run = start_run(iterations=40)
    for _ in range(8):
        step(run, batch())
    step(run, poison())
    with pytest.raises(ValueError, match="iteration 9 is not finite"):
        step(run, batch())


def test_infinite_gradient_is_an_error():
    run = start_run()
    handle = run.model.head.weight.register_hook(lambda gradient: gradient / 0)
    step(run, batch())
    handle.remove()
    with pytest.raises(ValueError, match=r"loss_main \d\.\d+, norm of the gradient (inf|nan)"):
        run.guard.check()


def test_skipped_steps_change_nothing_but_a_count(caplog):
    run = start_run(nonfinite="skip", ema=0.9)
    run.model.register_buffer("statistics", torch.zeros(1), persistent=False)

    def count_a_call(*_):  # as batch normalization keeps statistics
        run.model.statistics += 1

    run.model.backbone.register_forward_pre_hook(count_a_call)
    step(run, batch())
    before, average = weights(run).clone(), run.ema_model.head.weight.clone()
    momentum = [s["momentum_buffer"].clone() for s in run.optimizer.state.values()]
    step(run, poison())
    assert torch.equal(before, weights(run))
    assert torch.equal(average, run.ema_model.head.weight)
    for a, s in zip(momentum, run.optimizer.state.values(), strict=True):
        assert torch.equal(a, s["momentum_buffer"])
    assert run.model.statistics == 1
    assert run.iteration == 2
    assert "iteration 2 is not finite: loss_main nan" in caplog.text
    assert "samples 0, 1, 2, 3; skipped, 1 in all" in caplog.text
    assert run.state()["guard"] == {"skipped": 1, "in_a_row": 1}


@pytest.mark.parametrize(("policy", "ema"), [("stop", None), ("skip", 0.9)])
def test_overflowed_weights_are_not_saved(policy, ema):
    """Gradients are finite, and the updates leave the range of float32."""
    run = start_run(nonfinite=policy, ema=ema)
    for group in run.optimizer.param_groups:
        group["base_lr"] = 1e38
    for parameter in run.model.parameters():
        parameter.register_hook(lambda gradient: gradient.sign() * 1e9)
    step(run, batch())
    with pytest.raises(ValueError, match=r"iteration 1: model\.backbone\.weight.* are infinite or NaN"):
        run.state()


def test_large_weights_whose_sum_overflows_are_saved():
    run = start_run()
    with torch.no_grad():
        run.model.head.weight.fill_(1e38)
    assert run.state()["model"]["head.weight"].max() == 1e38


def test_infinite_momentum_is_not_saved():
    run = start_run()
    step(run, batch())
    next(iter(run.optimizer.state.values()))["momentum_buffer"][0] = float("inf")
    with pytest.raises(ValueError, match=r"optimizer.*momentum_buffer.* infinite or NaN"):
        run.state()


def test_no_checkpoint_is_saved_while_steps_are_skipped():
    run, checkpoints = start_run(nonfinite="skip", iterations=6), Mock()
    for data in (batch(), poison(), poison(), batch(), batch(), poison()):
        step(run, data)
        training.checkpoint_and_validate(run, None, None, monitor=Mock(), checkpoints=checkpoints)
    saved = [call.args[0]["iteration"] for call in checkpoints.save.call_args_list]
    assert saved == [1, 4, 5, 6]  # and at the end


def test_too_many_skipped_steps_in_a_row_are_an_error():
    run = start_run(nonfinite="skip", nonfinite_in_a_row=2)
    for data in (poison(), poison(), batch(), poison(), poison()):
        step(run, data)
    with pytest.raises(ValueError, match=r"iteration 6 .* number 3 in a row \(schedule.nonfinite_in_a_row\)"):
        step(run, poison())

"""What a tracker is told in its tests: a run of a few steps, records and evaluations."""

from __future__ import annotations


def train(run, steps, every=1):
    run.send("on_train_begin")
    for _ in range(steps):
        run.step()
        step = run.state.global_step
        if step % every == 0:
            run.log(loss=1 / step, learning_rate=1e-5 * step, epoch=step / 10)
        if step % (5 * every) == 0:
            run.evaluate(eval_loss=2 / step, eval_accuracy=step / 100, epoch=step / 10)

"""Training: that it learns, that it can be stopped anywhere and go on, that it leaves nothing behind."""

import dataclasses
import errno
import fcntl
import json
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from support import TINY, CopiesFromTheHost, as_on_a_gpu
from torch._subclasses.fake_tensor import FakeTensorMode

from pyrobayes import (
    BayesClassifier,
    Images,
    InputError,
    Progress,
    TrainingOptions,
    attacks,
    build,
    evaluation,
    fit,
    generate,
    load,
    load_data,
    reconstruct,
)
from pyrobayes.data.stored import StoredPixels
from pyrobayes.inference import importance
from pyrobayes.options import LIKELIHOODS, MODELS, Networks
from pyrobayes.training import checkpoint
from pyrobayes.training.batches import augmented
from pyrobayes.training.bounds import Inference, collapsed, learning_rate
from pyrobayes.training.checkpoint import MODEL, Config
from pyrobayes.training.fit import NonFiniteELBO, TrainingInterrupted

OPTIONS = TrainingOptions(epochs=3, batch_size=50)


def same_weights(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def as_users_train(monkeypatch):
    """Without the checks that Pyro makes in tests alone."""
    monkeypatch.setattr(importance, "VALIDATE", False)


@pytest.mark.usefixtures("as_users_train")
def test_gfz_beats_70_percent_on_the_embedded_subset(mini):
    factorization = build("gfz", "tiny")
    epochs = fit(factorization, mini, TrainingOptions(epochs=3, batch_size=32, lr=4e-3))
    test = load_data("fashion-mnist-mini", "test").head(300)
    result = evaluation.evaluate(BayesClassifier(factorization), test, batch_size=50)
    assert result.accuracy.share > 0.7
    assert result.accuracy.total == 300
    assert epochs[-1].validation_elbo > epochs[0].validation_elbo
    assert not epochs[-1].collapsed


@pytest.mark.parametrize("particles", [1, 3])
def test_elbo_equals_the_mean_log_weight(particles, make, tiny_images):
    # With no learning and no warm-up, the ELBO of an epoch is an average of log weights.
    factorization = make("gbz")
    options = TrainingOptions(epochs=1, lr=1e-30, schedule="constant", kl_warmup=0.0, train_particles=particles)
    epoch = fit(factorization, tiny_images, options)[0]
    training, _ = tiny_images.hold_out()
    x, y = training.batch(torch.arange(len(training)))
    weights = BayesClassifier(factorization, particles=20).estimate(x).log_weights[:, y, torch.arange(len(y))]
    error = (weights.std(0).square().mean() / len(y) / particles).sqrt().item()
    assert epoch.elbo == pytest.approx(weights.mean().item(), abs=5 * error)


def test_antithetic_particles_cancel_noise_that_the_gradient_is_linear_in(make, tiny_images):
    factorization = make("linear-gaussian", double=True)
    x, y = tiny_images.batch(torch.arange(20))

    def gradients(seed, particles, **how):  # with respect to b, to which z contributes linearly
        inference = Inference(factorization, TrainingOptions(train_particles=particles, **how))
        inference.optim = lambda: None  # which would take them
        factorization.zero_grad()
        torch.manual_seed(seed)
        inference.step(x.double(), y)
        return factorization.p_x.b.grad.clone()

    plain = torch.stack([gradients(seed, 2) for seed in range(50)])
    pairs = torch.stack([gradients(seed, particles, antithetic=True) for seed, particles in ((0, 2), (1, 2), (2, 4))])
    torch.testing.assert_close(pairs, pairs[:1].expand_as(pairs))
    error = plain.std(0) / math.sqrt(len(plain))
    assert (error > 0).all() and ((plain.mean(0) - pairs[0]).abs() < 5 * error).all()


def test_the_importance_weighted_bound_is_the_log_of_the_mean_weight(make, tiny_images):
    factorization = make("gbz")
    options = TrainingOptions(
        epochs=1, lr=1e-30, schedule="constant", kl_warmup=0.0, train_particles=5, bound="importance-weighted"
    )
    epoch = fit(factorization, tiny_images, options)[0]
    training, _ = tiny_images.hold_out()
    x, y = training.batch(torch.arange(len(training)))
    draws = torch.stack(
        [BayesClassifier(factorization, particles=5, seed=i)(x)[torch.arange(len(y)), y] for i in range(10)]
    )
    error = (draws.std(0).square().mean() / len(y)).sqrt().item()
    assert epoch.elbo == pytest.approx(draws.mean().item(), abs=5 * error)
    elbo = BayesClassifier(factorization, particles=100).estimate(x).log_weights.mean(0)[y, torch.arange(len(y))].mean()
    assert epoch.elbo > elbo.item() + 5 * error


def test_the_weights_that_are_kept_are_a_running_average(make, tiny_images, tmp_path):
    class Seen(Progress):
        def step(self, model, done, steps, elbo):
            seen.append({name: value.clone() for name, value in factorization.state_dict().items()})

    seen, factorization = [], make("gbz")
    fit(factorization, tiny_images, dataclasses.replace(OPTIONS, averaging=0.7), out=tmp_path, progress=Seen())
    shares = [0.7 ** (len(seen) - 1 - i) for i in range(len(seen))]  # of a step's weights, but for their sum
    average = {
        name: sum(share * weights[name] for share, weights in zip(shares, seen)) / sum(shares)
        for name in seen[0]
        if seen[0][name].is_floating_point()
    }
    for kept in (factorization.state_dict(), load(tmp_path).factorization.state_dict()):
        for name, value in kept.items():
            torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6)
    assert not torch.equal(kept["p_y.network.layers.0.weight"], seen[-1]["p_y.network.layers.0.weight"])


@pytest.mark.parametrize("how", ["shift", "shift-flip"])
def test_augmented_images_are_shifted_and_mirrored(how):
    torch.manual_seed(0)
    image = torch.rand(2, 5, 6)
    larger = torch.nn.functional.pad(image, (2, 2, 2, 2))
    possible = {(i, j, False): larger[:, i : i + 5, j : j + 6] for i in range(5) for j in range(5)}
    mirrored = torch.nn.functional.pad(image.flip(2), (2, 2, 2, 2))
    if how == "shift-flip":
        possible |= {(i, j, True): mirrored[:, i : i + 5, j : j + 6] for i in range(5) for j in range(5)}
    moved = augmented(image.expand(1000, -1, -1, -1), how)
    found = {place for place, shifted in possible.items() if (moved == shifted).flatten(1).all(1).any()}
    assert found == set(possible)
    assert sum((moved == shifted).flatten(1).all(1).sum() for shifted in possible.values()) == 1000


def test_noisy_images_have_normal_noise_of_that_sigma_and_are_not_clipped():
    torch.manual_seed(0)
    image = torch.rand(1, 5, 6)
    noise = (augmented(image.expand(20_000, -1, -1, -1), "gaussian", 0.5) - image).double()
    assert noise.mean().item() == pytest.approx(0, abs=0.005) and noise.std().item() == pytest.approx(0.5, rel=0.01)
    assert (noise.pow(4).mean() / noise.var().square()).item() == pytest.approx(3, rel=0.02)
    assert (image + noise).min() < -1


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_training_with_noise_is_recorded_and_ends(likelihood, make, tiny_images, tmp_path):
    options = dataclasses.replace(OPTIONS, augmentation="gaussian", sigma=0.5)
    epochs = fit(make("gfz", dataclasses.replace(TINY, likelihood=likelihood)), tiny_images, options, out=tmp_path)
    assert all(math.isfinite(epoch.elbo) for epoch in epochs)
    recorded = Config.read(tmp_path).training
    assert (recorded.augmentation, recorded.sigma) == ("gaussian", 0.5)


def test_noise_and_attacks_in_training_are_not_combined(make, tiny_images):
    with pytest.raises(InputError, match="take augmentation gaussian or an adversarial eps, not both"):
        fit(make("gfz"), tiny_images, dataclasses.replace(OPTIONS, augmentation="gaussian", adversarial_eps=0.1))


@pytest.mark.parametrize(
    "more",
    [{}, {"averaging": 0.9, "augmentation": "shift-flip", "train_particles": 2, "antithetic": True}],
    ids=["plain", "with options"],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_resumed_after_an_interrupt_ends_with_the_same_weights(number, more, make, tiny_images, tmp_path):
    if more and number != signal.SIGTERM:
        pytest.skip("one signal with options is enough")

    class Interrupt(Progress):
        def step(self, model, done, steps, elbo):
            if done == 7:
                os.kill(os.getpid(), number)

    options = dataclasses.replace(OPTIONS, **more)
    whole, parts = make("gfz"), make("gfz")
    expected = fit(whole, tiny_images, options, out=tmp_path / "whole")
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match="step 2 of epoch 2 of 3") as told:
        fit(parts, tiny_images, options, out=tmp_path / "parts", progress=Interrupt())
    assert not told.value.complete
    assert signal.getsignal(number) is before and told.value.status == 128 + number
    fresh = make("gfz", seed=99)
    resumed = fit(fresh, tiny_images, options, out=tmp_path / "parts", resume=True)
    assert same_weights(whole, fresh)
    assert [e.elbo for e in resumed] == [e.elbo for e in expected]
    assert same_weights(load(tmp_path / "whole"), load(tmp_path / "parts"))
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_an_interrupt_in_the_last_epoch_is_not_lost(make, tiny_images, tmp_path):
    class Interrupt(Progress):
        def step(self, model, done, steps, elbo):
            if done == steps:
                os.kill(os.getpid(), signal.SIGINT)

    expected, stopped = make("gfz"), make("gfz")
    fit(expected, tiny_images, OPTIONS)
    with pytest.raises(
        TrainingInterrupted, match="stopped after the last of 3 epochs: this training is complete"
    ) as told:
        fit(stopped, tiny_images, OPTIONS, out=tmp_path, progress=Interrupt())
    assert told.value.complete
    assert same_weights(load(tmp_path).factorization, expected) and same_weights(stopped, expected)


def test_resuming_a_finished_run_changes_nothing(make, tiny_images, tmp_path, monkeypatch):
    fit(make("gbz"), tiny_images, OPTIONS, out=tmp_path)
    (tmp_path / MODEL).unlink()  # as if killed before the last write
    fit(make("gbz"), tiny_images, OPTIONS, out=tmp_path, resume=True)
    load(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(checkpoint, "versions", lambda: {"torch": "a later one"})
    fit(make("gbz"), tiny_images, OPTIONS, out=tmp_path, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_seed_may_be_numpys(make, tiny_images, tmp_path):
    options = TrainingOptions(epochs=1, seed=np.int64(3))
    fit(make("gbz"), tiny_images, options, out=tmp_path)
    assert Config.read(tmp_path).training == options and load(tmp_path)


def test_a_run_is_not_replaced_by_accident(make, tiny_images, tmp_path):
    fit(make("gbz"), tiny_images, OPTIONS, out=tmp_path)
    before = (tmp_path / MODEL).read_bytes()
    with pytest.raises(InputError, match="already holds a run"):
        fit(make("gbz"), tiny_images, OPTIONS, out=tmp_path)
    with pytest.raises(
        InputError, match="another configuration: there, epochs is 3, not 5; take another folder for it$"
    ):
        fit(make("gbz"), tiny_images, TrainingOptions(epochs=5, batch_size=50), out=tmp_path, resume=True)
    assert (tmp_path / MODEL).read_bytes() == before
    fit(make("gbz"), tiny_images, TrainingOptions(epochs=1, batch_size=50), out=tmp_path, overwrite=True)
    assert (tmp_path / MODEL).read_bytes() != before


def test_a_run_that_is_replaced_stays_until_the_new_one_is_saved(make, tiny_images, tmp_path, monkeypatch):
    class StopEarly(Progress):
        def step(self, model, done, steps, elbo):
            if done == 2:
                os.kill(os.getpid(), signal.SIGINT)

    first = make("gbz")
    fit(first, tiny_images, OPTIONS, out=tmp_path)
    new = TrainingOptions(epochs=2, batch_size=50)
    monkeypatch.setattr(os, "fsync", lambda descriptor: missing_space())
    with pytest.raises(InputError, match="the disk is full"):
        fit(make("gbz", seed=1), tiny_images, new, out=tmp_path, overwrite=True)
    monkeypatch.undo()
    assert same_weights(load(tmp_path).factorization, first)
    with pytest.raises(TrainingInterrupted):
        fit(make("gbz", seed=1), tiny_images, new, out=tmp_path, overwrite=True, progress=StopEarly())
    assert same_weights(load(tmp_path).factorization, first)
    fit(make("gbz", seed=1), tiny_images, new, out=tmp_path, resume=True)
    assert not same_weights(load(tmp_path).factorization, first)


def missing_space():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_that_was_not_saved_once_can_start_again(make, tiny_images, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: missing_space())
    with pytest.raises(InputError, match="the disk is full"):
        fit(make("gbz"), tiny_images, OPTIONS, out=tmp_path)
    monkeypatch.undo()
    fit(make("gbz"), tiny_images, OPTIONS, out=tmp_path)
    load(tmp_path)


def test_two_trainings_in_one_folder_are_refused(make, tiny_images, tmp_path):
    class Second(Progress):
        def epoch(self, model, epoch, epochs):
            with pytest.raises(InputError, match="is being trained in by another process"):
                fit(make("gbz"), tiny_images, OPTIONS, out=tmp_path, overwrite=True)

    fit(make("gbz"), tiny_images, TrainingOptions(epochs=1), out=tmp_path, progress=Second())
    load(tmp_path)


def test_a_file_system_without_locks_can_be_trained_on(make, tiny_images, tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    fit(make("gbz"), tiny_images, TrainingOptions(epochs=1), out=tmp_path)
    load(tmp_path)


def test_a_full_disk_keeps_the_last_checkpoint(make, tiny_images, tmp_path, monkeypatch):
    class Full(Progress):
        def epoch(self, model, epoch, epochs):
            monkeypatch.setattr(os, "fsync", lambda descriptor: missing_space())

    expected = make("gfz")
    fit(expected, tiny_images, OPTIONS, out=tmp_path / "whole")
    with pytest.raises(InputError, match="the disk is full; what was there before is unharmed"):
        fit(make("gfz"), tiny_images, OPTIONS, out=tmp_path / "full", progress=Full())
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "full").iterdir() if path.name.startswith(".") and path.name != ".lock"]
    load(tmp_path / "full")
    resumed = make("gfz")
    fit(resumed, tiny_images, OPTIONS, out=tmp_path / "full", resume=True)
    assert same_weights(resumed, expected)


@pytest.fixture
def as_users_run(monkeypatch):
    """Pyro's own checks are off, as they are outside the tests."""
    monkeypatch.setattr(importance, "VALIDATE", False)


def test_a_non_finite_elbo_stops_and_keeps_the_last_good_checkpoint(as_users_run, make, tiny_images, tmp_path):
    factorization = make("gbz")

    class Break(Progress):
        def epoch(self, model, epoch, epochs):
            next(factorization.parameters()).data.fill_(float("nan"))

    with pytest.raises(NonFiniteELBO, match="step 1 of epoch 2.* keeps the weights after epoch 1"):
        fit(factorization, tiny_images, OPTIONS, out=tmp_path, progress=Break())
    assert all(p.isfinite().all() for p in load(tmp_path).parameters())


def test_a_learning_rate_that_breaks_everything_is_told(as_users_run, make, tiny_images):
    with pytest.raises(NonFiniteELBO, match=r"try a smaller learning rate \(lr is 1e\+20\)"):
        fit(make("gfz"), tiny_images, TrainingOptions(epochs=3, lr=1e20, schedule="constant", kl_warmup=0.0))


def test_nothing_is_left_behind(make, tiny_images, tmp_path):
    def state():
        return {
            "torch": torch.get_rng_state().tolist(),
            "numpy": repr(np.random.get_state()),
            "dtype": torch.get_default_dtype(),
            "parameters": dict(pyro.get_param_store().get_state()["params"]),
            "validation": torch.distributions.Distribution._validate_args,
            "grad": torch.is_grad_enabled(),
            "signal": signal.getsignal(signal.SIGINT),
        }

    before = state()
    fit(make("gfz"), tiny_images, TrainingOptions(epochs=1), out=tmp_path)
    classifier = load(tmp_path)
    x, y = tiny_images.batch(torch.arange(5))
    attacks.fgsm(classifier, x, y, 0.1)
    generate(classifier.factorization, 2)
    reconstruct(classifier.factorization, x, y)
    classifier.factorization.parents()
    assert state() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"factorization": None}, "factorization must be a model as pyrobayes.build makes it, got NoneType"),
        ({"factorization": torch.nn.Linear(2, 2)}, "factorization must be .*, got Linear"),
        ({"data": None}, "data must be pyrobayes.Images, .* got NoneType"),
        ({"data": torch.utils.data.TensorDataset(torch.zeros(2))}, "data must be .*, got TensorDataset"),
        ({"options": {"epochs": 1}}, "options must be pyrobayes.TrainingOptions, got dict"),
        ({"out": 5}, "out must be the path of a folder, got 5"),
        ({"resume": 1}, "resume must be True or False, got 1"),
        ({"resume": True}, "resume needs the folder of a run"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(arguments, words, make, tiny_images):
    given = {"factorization": make("gbz"), "data": tiny_images} | arguments
    with pytest.raises(InputError, match=words):
        fit(given.pop("factorization"), given.pop("data"), given.pop("options", None), **given)


def test_a_second_thread_that_trains_is_refused_and_one_that_classifies_waits(make, tiny_images):
    seen, classifier, x = [], BayesClassifier(make("gbz"), particles=2), tiny_images.batch(slice(4))[0]

    class Elsewhere(Progress):
        def epoch(self, model, epoch, epochs):
            with ThreadPoolExecutor(1) as thread:
                seen.append(thread.submit(classifier, x).result().shape)
                with pytest.raises(InputError, match="another thread of this process is training"):
                    thread.submit(fit, make("dbx"), tiny_images, TrainingOptions(epochs=1)).result()

    fit(make("gbz"), tiny_images, TrainingOptions(epochs=1), progress=Elsewhere())
    assert seen == [(4, 10)]


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_refused(off, make, tiny_images, tmp_path):
    fit(make("gbz"), tiny_images, TrainingOptions(epochs=1), out=tmp_path)
    with off():
        with pytest.raises(InputError, match="call fit outside torch.no_grad and torch.inference_mode"):
            fit(make("gbz"), tiny_images)
        built, loaded = make("gbz"), load(tmp_path)
    assert not any(parameter.is_inference() for parameter in loaded.parameters())
    if off is torch.inference_mode:
        with pytest.raises(InputError, match="this gbz was built in torch.inference_mode: build it outside"):
            fit(built, tiny_images)


def test_test_images_are_refused(make, tiny_images):
    import dataclasses

    with pytest.raises(InputError, match="training takes training images"):
        fit(make("gbz"), dataclasses.replace(tiny_images, split="test"))
    with pytest.raises(InputError, match=r"was built for images \[1, 7, 7\]"):
        fit(make("gbz"), load_data("fashion-mnist-mini"))


def test_class_frequencies_are_those_of_the_training_part(make, tiny_images):
    factorization = make("gfy")
    fit(factorization, tiny_images, TrainingOptions(epochs=1))
    training, validation = tiny_images.hold_out()
    torch.testing.assert_close(factorization.p_y.frequencies, training.labels.bincount(minlength=10) / len(training))
    assert len(training) + len(validation) == 240 and len(validation) == 20


def test_a_class_without_images_is_refused_where_its_frequency_is_asked_for(make, tiny_images):
    two = dataclasses.replace(tiny_images, labels=tiny_images.labels.clamp(min=2))
    with pytest.raises(
        InputError, match=f"there is none of {', '.join(two.classes[:2])}: train on images of every class"
    ):
        fit(make("gfy"), two, TrainingOptions(epochs=1))
    fit(make("gfz"), two, TrainingOptions(epochs=1))


def test_learning_rate_schedules():
    options = TrainingOptions(lr=1.0)
    rates = [learning_rate(options, step, 100) for step in range(100)]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=100, cycle_momentum=False)
    theirs = []
    for _ in range(100):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(theirs, abs=0.05)
    assert max(rates) == 1.0 and rates[0] == pytest.approx(1 / 25) and rates[-1] < 1e-4
    assert learning_rate(TrainingOptions(lr=0.1, schedule="constant"), 7, 10) == 0.1
    cosine = [learning_rate(TrainingOptions(lr=0.1, schedule="cosine"), step, 10) for step in range(10)]
    assert cosine == sorted(cosine, reverse=True) and cosine[0] == 0.1


def test_collapse_is_told_by_what_z_carries(make):
    assert collapsed(make("gbz"), kl=0.01, accuracy=0.8)
    assert not collapsed(make("gbz"), kl=5.0, accuracy=0.1)
    assert collapsed(make("dbx"), kl=0.01, accuracy=0.1)
    assert not collapsed(make("dfx"), kl=0.01, accuracy=0.8)


@pytest.mark.usefixtures("as_users_train")
def test_default_of_dbx_does_not_collapse(mini):
    factorization = build("dbx", "small")
    last = fit(factorization, mini, TrainingOptions(epochs=3, batch_size=32))[-1]
    assert not last.collapsed
    assert last.validation_accuracy > 0.6


def test_tensorboard_files_are_written(make, tiny_images, tmp_path):
    pytest.importorskip("tensorboard")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's own
        fit(make("dbx"), tiny_images, TrainingOptions(epochs=1), out=tmp_path, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_elbo_does_not_wait_for_the_device(name, likelihood):
    factorization = build(name, Networks(latent=4, hidden=8, channels=16, likelihood=likelihood))
    with FakeTensorMode(), torch.no_grad(), pyro.validation_enabled(False):
        as_on_a_gpu(factorization)
        x, y = torch.empty(4, 1, 28, 28, device="cuda"), torch.empty(4, dtype=torch.long, device="cuda")
        with CopiesFromTheHost() as copies:
            guide_trace = poutine.trace(factorization.guide).get_trace(x, y)
            model_trace = poutine.trace(poutine.replay(factorization.model, trace=guide_trace)).get_trace(x, y)
            elbo = model_trace.log_prob_sum() - guide_trace.log_prob_sum()
    assert elbo.device.type == "cuda" and not copies.found


@pytest.mark.parametrize("part", [slice(0, None, 1), slice(1, None, 2)])
def test_training_from_the_disk_ends_with_the_same_weights(part, make, tiny_images, tmp_path, monkeypatch):
    """Also that of a second process of two, which reads its part alone. The process is alone here, and gradients aren't added up."""
    np.save(tmp_path / "pixels.npy", tiny_images.pixels.numpy())
    mapped = Images.from_arrays(np.load(tmp_path / "pixels.npy", mmap_mode="r"), tiny_images.labels)
    read = []
    monkeypatch.setattr("pyrobayes.distributed.mine", lambda: part)
    at = StoredPixels.__getitem__

    def listen(pixels, rows):
        read.extend([len(rows)] if isinstance(rows, torch.Tensor) else [])
        return at(pixels, rows)

    monkeypatch.setattr(StoredPixels, "__getitem__", listen)
    models = make("gbz"), make("gbz")
    for model, images in zip(models, (dataclasses.replace(tiny_images, classes=mapped.classes), mapped)):
        fit(model, images, TrainingOptions(epochs=1, batch_size=32, augmentation="shift-flip"), progress=False)
    assert same_weights(*models)
    assert read[:7] == [len(range(32)[part])] * 6 + [len(range(28)[part])]

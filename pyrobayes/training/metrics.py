"""The measurements of a training, one record an epoch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """What was measured after one epoch. `validation_...` are over held-out images of the training set, with the average
    of the weights where there is one.

    Attributes:
        epoch: counted from 1.
        elbo: mean over the epoch's training images of the bound, nats per image, as optimised (with the KL warm-up).
        validation_elbo: nats per image, without warm-up.
        validation_kl: mean of log q(z|x, y) - log p(z|...), nats per image: what z carries.
        validation_accuracy: share of the images classified correctly, K = 10.
        collapsed: whether z carries as good as nothing of x and y, see :func:`pyrobayes.training.bounds.collapsed`.
        lr: learning rate of the epoch's last step.
        seconds: what the epoch took.
    """

    epoch: int
    elbo: float
    validation_elbo: float
    validation_kl: float
    validation_accuracy: float
    collapsed: bool
    lr: float
    seconds: float

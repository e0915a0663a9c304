"""The optimizer of a training and its learning rate."""

import math

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyrobayes.options import TrainingOptions


def learning_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """The learning rate of step `step`, from 0, of `steps`.

    `one-cycle` rises from lr/25 to lr over the first 30% and falls to lr/250,000, both along a cosine
    (Smith and Topin 2019, with the defaults of torch.optim.lr_scheduler.OneCycleLR); `cosine` falls from lr to 0.
    """

    def along_cosine(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    if options.schedule == "constant":
        return options.lr
    if options.schedule == "cosine":
        return along_cosine(options.lr, 0.0, step / steps)
    top = max(1, round(0.3 * steps))
    if step < top:
        return along_cosine(options.lr / 25, options.lr, step / top)
    return along_cosine(options.lr, options.lr / 250_000, (step - top) / max(1, steps - 1 - top))


class OneOptimizer(PyroOptim):
    """One Adam for all parameters. Pyro makes one for each, which takes a fifth to a half of a step here."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer

    def __call__(self, params=None, *args, **kwargs) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters; zeros for a parameter without one."""
        parameters = self.optimizer.param_groups[0]["params"]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return [parameter.grad for parameter in parameters]

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer.param_groups[0]["lr"] = value

    def state(self) -> dict[str, Tensor]:
        """Adam's step and moments of every parameter, `0.exp_avg` for the first; zero before its first step."""
        tensors = {}
        for index, parameter in enumerate(self.optimizer.param_groups[0]["params"]):
            fresh = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
            fresh["exp_avg_sq"] = torch.zeros_like(parameter)
            entry = self.optimizer.state.get(parameter) or fresh
            tensors |= {f"{index}.{key}": value for key, value in entry.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Set the tensors that :meth:`state` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

"""The fast gradient sign method."""

from dataclasses import dataclass

from pyrobayes.attacks.base import Attack, register


@register("fgsm")
@dataclass(frozen=True)
class FGSM(Attack):
    """x + eps sign(gradient in x of -log p(y|x)), Goodfellow, Shlens and Szegedy (2015), equation 4.

    In L2, x + eps times the gradient over its length: the fast gradient method of Miyato et al. (2017). Pixels are then cut
    to [0, 1], so that black and white ones use up less than eps; iterative attacks make use of the rest.

    The gradient goes through the whole importance-sampled estimate: guide, samples, decoder, logsumexp. Its direction
    doesn't depend on eps, so that one gradient serves all.
    """

    def perturb_all(self, problem, eps):
        _, gradient = problem.gradient(problem.x)
        step = problem.ascend(gradient)
        return [problem.x + value * step for value in eps]

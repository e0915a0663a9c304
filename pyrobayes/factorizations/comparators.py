"""Ordinary classifiers to compare the deep Bayes classifiers with, in the same form and under the same commands.

They model p(y|x) alone, like the networks that most attacks were made for. They have the same features of x.
"""

import pyro

from pyrobayes.factorizations.base import DeepBayes, register


@register("cnn")
class CNN(DeepBayes):
    """p(x, y) = p_D(x) p(y|x)"""

    comparator = True

    def __init__(self, conditionals):
        super().__init__(conditionals)
        del self.q_z
        self.latent = self.networks.latent  # numbers that training draws and doesn't use: a seed keeps its weights
        self.p_x = conditionals.data_x()
        self.p_y = conditionals.y("x", hidden_layers=0)

    def model(self, x=None, y=None):
        with self.images(x, y):
            x = pyro.sample("x", self.p_x(), obs=x)
            y = pyro.sample("y", self.p_y(x), obs=y)
        return x, y

    def guide(self, x, y):
        """There is no z."""


@register("cnn-at")
class AdversariallyTrainedCNN(CNN):
    """p(x, y) = p_D(x) p(y|x)"""

    adversarial_eps = 0.3


@register("bnn")
class BNN(DeepBayes):
    """p(x, z, y) = p_D(x) p(z) p(y|z, x)"""

    comparator = True

    def __init__(self, conditionals):
        super().__init__(conditionals)
        del self.q_z
        self.p_x = conditionals.data_x()
        self.p_z = conditionals.dropout()
        self.p_y = conditionals.y_under_dropout("x")

    def model(self, x=None, y=None):
        with self.images(x, y):
            x = pyro.sample("x", self.p_x(), obs=x)
            z = pyro.sample("z", self.p_z())
            y = pyro.sample("y", self.p_y(z, x), obs=y)
        return x, y

    def guide(self, x, y):
        """q(z) = p(z): the choice of dropped units doesn't depend on the image (Gal and Ghahramani 2016)."""
        with self.images(x, y):
            return pyro.sample("z", self.p_z())

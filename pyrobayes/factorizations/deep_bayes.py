"""The seven factorizations of p(x, z, y) of Li, Bradshaw and Sharma (2019), section 2.

First letter: Generative or Discriminative. Second: Fully connected, or Bottleneck (z is the only link
between x and y). Last: the first variable in topological order. `p_D` is the distribution of the data.
All seven share the guide q(z|x, y) of :class:`~pyrobayes.factorizations.base.DeepBayes`.

Li, Bradshaw and Sharma, "Are Generative Classifiers More Robust to Adversarial Attacks?", ICML 2019,
arXiv:1802.06552.
"""

import pyro

from pyrobayes.factorizations.base import DeepBayes, register


@register("gfz")
class GFZ(DeepBayes):
    """p(x, z, y) = p(z) p(y|z) p(x|z, y)"""

    def __init__(self, conditionals):
        super().__init__(conditionals)
        self.p_z = conditionals.z()
        self.p_y = conditionals.y("z")
        self.p_x = conditionals.x("z", "y")

    def model(self, x=None, y=None):
        with self.images(x, y):
            z = pyro.sample("z", self.p_z())
            y = pyro.sample("y", self.p_y(z), obs=y)
            x = pyro.sample("x", self.p_x(z, y), obs=x)
        return x, y


@register("gfy")
class GFY(DeepBayes):
    """p(x, z, y) = p_D(y) p(z|y) p(x|z, y)"""

    def __init__(self, conditionals):
        super().__init__(conditionals)
        self.p_y = conditionals.data_y()
        self.p_z = conditionals.z("y")
        self.p_x = conditionals.x("z", "y")

    def model(self, x=None, y=None):
        with self.images(x, y):
            y = pyro.sample("y", self.p_y(), obs=y)
            z = pyro.sample("z", self.p_z(y))
            x = pyro.sample("x", self.p_x(z, y), obs=x)
        return x, y


@register("gbz")
class GBZ(DeepBayes):
    """p(x, z, y) = p(z) p(y|z) p(x|z)"""

    def __init__(self, conditionals):
        super().__init__(conditionals)
        self.p_z = conditionals.z()
        self.p_y = conditionals.y("z")
        self.p_x = conditionals.x("z")

    def model(self, x=None, y=None):
        with self.images(x, y):
            z = pyro.sample("z", self.p_z())
            y = pyro.sample("y", self.p_y(z), obs=y)
            x = pyro.sample("x", self.p_x(z), obs=x)
        return x, y


@register("gby")
class GBY(DeepBayes):
    """p(x, z, y) = p_D(y) p(z|y) p(x|z)"""

    def __init__(self, conditionals):
        super().__init__(conditionals)
        self.p_y = conditionals.data_y()
        self.p_z = conditionals.z("y")
        self.p_x = conditionals.x("z")

    def model(self, x=None, y=None):
        with self.images(x, y):
            y = pyro.sample("y", self.p_y(), obs=y)
            z = pyro.sample("z", self.p_z(y))
            x = pyro.sample("x", self.p_x(z), obs=x)
        return x, y


@register("dfx")
class DFX(DeepBayes):
    """p(x, z, y) = p_D(x) p(z|x) p(y|z, x)"""

    def __init__(self, conditionals):
        super().__init__(conditionals)
        self.p_x = conditionals.data_x()
        self.p_z = conditionals.z("x")
        self.p_y = conditionals.y("z", "x", hidden_layers=1)

    def model(self, x=None, y=None):
        with self.images(x, y):
            x = pyro.sample("x", self.p_x(), obs=x)
            z = pyro.sample("z", self.p_z(x))
            y = pyro.sample("y", self.p_y(z, x), obs=y)
        return x, y


@register("dfz")
class DFZ(DeepBayes):
    """p(x, z, y) = p(z) p(x|z) p(y|z, x)"""

    def __init__(self, conditionals):
        super().__init__(conditionals)
        self.p_z = conditionals.z()
        self.p_x = conditionals.x("z")
        self.p_y = conditionals.y("z", "x", hidden_layers=1)

    def model(self, x=None, y=None):
        with self.images(x, y):
            z = pyro.sample("z", self.p_z())
            x = pyro.sample("x", self.p_x(z), obs=x)
            y = pyro.sample("y", self.p_y(z, x), obs=y)
        return x, y


@register("dbx")
class DBX(DeepBayes):
    """p(x, z, y) = p_D(x) p(z|x) p(y|z)"""

    def __init__(self, conditionals):
        super().__init__(conditionals)
        self.p_x = conditionals.data_x()
        self.p_z = conditionals.z("x")
        self.p_y = conditionals.y("z", hidden_layers=1)

    def model(self, x=None, y=None):
        with self.images(x, y):
            x = pyro.sample("x", self.p_x(), obs=x)
            z = pyro.sample("z", self.p_z(x))
            y = pyro.sample("y", self.p_y(z), obs=y)
        return x, y

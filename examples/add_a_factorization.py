"""An eighth factorization: p(z) p(y) p(x|z, y), the conditional VAE, or M2 of Kingma et al. (2014).

Once registered, it trains, classifies and is attacked like the others. The program takes about a minute on two CPU cores;
--quick takes some seconds, with tiny networks and few images, and gives a poor model.
"""

import sys

import pyro

import pyrobayes
from pyrobayes.factorizations import DeepBayes, register


@register("m2")
class M2(DeepBayes):
    """p(x, z, y) = p(z) p_D(y) p(x|z, y)"""

    def __init__(self, conditionals):
        super().__init__(conditionals)
        self.p_z = conditionals.z()
        self.p_y = conditionals.data_y()
        self.p_x = conditionals.x("z", "y")

    def model(self, x=None, y=None):
        with self.images(x, y):
            z = pyro.sample("z", self.p_z())
            y = pyro.sample("y", self.p_y(), obs=y)
            x = pyro.sample("x", self.p_x(z, y), obs=x)
        return x, y


quick = "--quick" in sys.argv
factorization = pyrobayes.build("m2", networks="tiny" if quick else "small")
print(factorization.formula(), "has the parents", factorization.structure.parents)

images = pyrobayes.load_data("fashion-mnist-mini").head(500 if quick else None)
pyrobayes.fit(factorization, images, pyrobayes.TrainingOptions(epochs=1 if quick else 6, batch_size=32))

classifier = pyrobayes.BayesClassifier(factorization)
test = pyrobayes.load_data("fashion-mnist-mini", "test")
result = pyrobayes.evaluate(classifier, test, images=20 if quick else 500)
low, high = result.accuracy.interval
print(f"accuracy {result.accuracy.share:.1%} [{low:.1%}, {high:.1%}] of {result.accuracy.total} test images")

pgd = pyrobayes.attacks.get("pgd", steps=2 if quick else 20)
broken = pyrobayes.attack(classifier, test, 0.1, by=pgd, images=10 if quick else 200).success(0)
print(f"PGD at eps 0.1 leaves {1 - broken.share:.1%} of {broken.total}")

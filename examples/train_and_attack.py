"""Train a generative and a discriminative classifier on the embedded images, attack both, compare.

Prints the success rate of FGSM, and of the worst of two attacks, image by image. Takes three minutes on two CPU cores. With --quick it
takes some seconds, with tiny networks and few images, and trains poor models.
"""

import sys

import torch

import pyrobayes
from pyrobayes.evaluation.rates import Rate

quick = "--quick" in sys.argv
training = pyrobayes.TrainingOptions(epochs=1 if quick else 6, batch_size=32)
images = 10 if quick else 200

train = pyrobayes.load_data("fashion-mnist-mini", "train").head(500 if quick else None)
test = pyrobayes.load_data("fashion-mnist-mini", "test")
fgsm, pgd = pyrobayes.attacks.get("fgsm"), pyrobayes.attacks.get("pgd", steps=2 if quick else 20)

for name in ("gfz", "dfx"):
    factorization = pyrobayes.build(name, networks="tiny" if quick else "small")
    print(f"{name}: {factorization.formula()}")
    for epoch in pyrobayes.fit(factorization, train, training):
        print(f"  epoch {epoch.epoch}: ELBO {epoch.elbo:.1f} nats, accuracy {epoch.validation_accuracy:.1%} (held out)")

    classifier = pyrobayes.BayesClassifier(factorization, particles=10, noise="fresh", seed=0)
    results = [pyrobayes.attack(classifier, test, (0.05, 0.1, 0.2), by=by, images=images) for by in (fgsm, pgd)]
    broken = [torch.tensor(result.predictions) != torch.tensor(result.labels) for result in results]  # [E, N] of each
    for eps, single, worst in zip(results[0].eps, broken[0], broken[0] | broken[1]):
        found = f"FGSM {Rate.of(single).percent()}, worst of FGSM and PGD {Rate.of(worst).percent()}"
        print(f"  eps {eps:g}, misclassified in %: {found}")

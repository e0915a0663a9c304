"""Train a generative and a discriminative classifier on the embedded images, attack both, compare.

About two minutes on two CPU cores; with --quick, half a minute and poor models.
"""

import sys

import pyrobayes

quick = "--quick" in sys.argv
training = pyrobayes.TrainingOptions(epochs=1 if quick else 6, batch_size=32)
images = 50 if quick else 200

train = pyrobayes.load_data("fashion-mnist-mini", "train")
test = pyrobayes.load_data("fashion-mnist-mini", "test")

for name in ("gfz", "dfx"):
    factorization = pyrobayes.build(name, networks="small")
    print(f"{name}: {factorization.formula()}")
    for epoch in pyrobayes.fit(factorization, train, training):
        print(f"  epoch {epoch.epoch}: ELBO {epoch.elbo:.1f} nats, accuracy {epoch.validation_accuracy:.1%} (held out)")

    classifier = pyrobayes.BayesClassifier(factorization, particles=10, noise="fresh", seed=0)
    result = pyrobayes.attack(classifier, test, eps=(0.0, 0.05, 0.1, 0.2), images=images)
    for i, eps in enumerate(result.eps):
        low, high = result.success(i).interval
        print(f"  eps {eps:.2f}: {result.success(i).share:.1%} misclassified [{low:.1%}, {high:.1%}]")

"""Attack a classifier with torchattacks, to which `classifier.as_logits()` is an ordinary nn.Module with inputs in [0, 1].

Needs torchattacks: pip install torchattacks. It asks for a version of requests from 2020, so give it an environment of its own. Takes two
minutes on two CPU cores. With --quick it takes less, and trains a poor model.
"""

import sys

import torchattacks

import pyrobayes

quick = "--quick" in sys.argv
factorization = pyrobayes.build("gfz", networks="tiny" if quick else "small")
images = pyrobayes.load_data("fashion-mnist-mini").head(500 if quick else None)
pyrobayes.fit(factorization, images, pyrobayes.TrainingOptions(epochs=1 if quick else 6, batch_size=32))
x, y = pyrobayes.load_data("fashion-mnist-mini", "test").head(10 if quick else 100).batch(slice(None))

# torchattacks takes a model for a deterministic function of the image. Fixed noise makes the classifier one.
classifier = pyrobayes.BayesClassifier(factorization.eval(), noise="fixed")
logits = classifier.as_logits().eval()

for name, attack in (
    ("FGSM", torchattacks.FGSM(logits, eps=0.1)),
    ("PGD", torchattacks.PGD(logits, eps=0.1, alpha=0.02, steps=5 if quick else 20)),
    ("APGD, DLR", torchattacks.APGD(logits, eps=0.1, steps=5 if quick else 20, loss="dlr")),
):
    adversarial = attack(x, y).detach()
    wrong = (classifier(adversarial).argmax(1) != y).float().mean()
    # An image may be misclassified by luck under one draw of the noise. Fresh draws tell.
    resampled = pyrobayes.BayesClassifier(factorization, noise="fresh")(adversarial).argmax(1)
    print(f"{name:22} eps 0.1: {wrong:4.0%} wrong, {(resampled != y).float().mean():4.0%} with fresh noise")

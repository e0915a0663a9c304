"""Attack a classifier with torchattacks: `classifier.as_logits()` is an ordinary nn.Module with inputs in [0, 1].

Needs torchattacks (pip install torchattacks; it holds the package requests at a version of 2020, so that an environment of
its own is a good idea). Two minutes on two CPU cores; with --quick less and a poor model.
"""

import sys

import torchattacks

import pyrobayes

quick = "--quick" in sys.argv
factorization = pyrobayes.build("gfz", networks="small")
images = pyrobayes.load_data("fashion-mnist-mini")
pyrobayes.fit(factorization, images, pyrobayes.TrainingOptions(epochs=1 if quick else 6, batch_size=32))
x, y = pyrobayes.load_data("fashion-mnist-mini", "test").head(20 if quick else 100).batch(slice(None))

# Fixed noise makes the classifier a deterministic function of the image, as torchattacks takes every model to be.
classifier = pyrobayes.BayesClassifier(factorization.eval(), noise="fixed")
logits = classifier.as_logits().eval()

for name, attack in (
    ("FGSM", torchattacks.FGSM(logits, eps=0.1)),
    ("PGD", torchattacks.PGD(logits, eps=0.1, alpha=0.02, steps=5 if quick else 20)),
    ("APGD, DLR", torchattacks.APGD(logits, eps=0.1, steps=5 if quick else 20, loss="dlr")),
):
    adversarial = attack(x, y).detach()
    wrong = (classifier(adversarial).argmax(1) != y).float().mean()
    # What a deterministic classifier got wrong must still be wrong with other draws, or it was luck.
    redrawn = pyrobayes.BayesClassifier(factorization, noise="fresh")(adversarial).argmax(1)
    print(f"{name:22} eps 0.1: {wrong:4.0%} wrong, {(redrawn != y).float().mean():4.0%} with fresh noise")

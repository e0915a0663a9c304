"""Attack a classifier with the Adversarial Robustness Toolbox (ART), to which `classifier.as_logits()` is an ordinary nn.Module.

Needs ART: pip install adversarial-robustness-toolbox. Takes two minutes on two CPU cores. With --quick it takes less, and trains a poor
model.
"""

import sys

import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent, SquareAttack
from art.estimators.classification import PyTorchClassifier

import pyrobayes

quick = "--quick" in sys.argv
factorization = pyrobayes.build("gfz", networks="tiny" if quick else "small")
images = pyrobayes.load_data("fashion-mnist-mini").head(500 if quick else None)
pyrobayes.fit(factorization, images, pyrobayes.TrainingOptions(epochs=1 if quick else 6, batch_size=32))
x, y = pyrobayes.load_data("fashion-mnist-mini", "test").head(10 if quick else 100).batch(slice(None))

# ART takes a model for a deterministic function of the image. Fixed noise makes the classifier one.
classifier = pyrobayes.BayesClassifier(factorization.eval(), noise="fixed")
model = PyTorchClassifier(
    model=classifier.as_logits().eval(),
    loss=torch.nn.CrossEntropyLoss(),
    input_shape=tuple(x.shape[1:]),
    nb_classes=10,
    clip_values=(0, 1),
    device_type="cpu",
)

for name, attack in (
    ("FGSM", FastGradientMethod(model, eps=0.1)),
    ("PGD", ProjectedGradientDescent(model, eps=0.1, eps_step=0.02, max_iter=5 if quick else 20, verbose=False)),
    ("Square, no gradient", SquareAttack(model, eps=0.1, max_iter=20 if quick else 200, verbose=False)),
):
    adversarial = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
    wrong = (classifier(adversarial).argmax(1) != y).float().mean()
    # An image may be misclassified by luck under one draw of the noise. Fresh draws tell.
    resampled = pyrobayes.BayesClassifier(factorization, noise="fresh")(adversarial).argmax(1)
    print(f"{name:22} eps 0.1: {wrong:4.0%} wrong, {(resampled != y).float().mean():4.0%} with fresh noise")

"""Attack a trained model with foolbox, to which `classifier.as_logits()` is an ordinary nn.Module with inputs in [0, 1].

Needs foolbox: pip install 'pyrobayes[attacks]'. Takes two minutes on two CPU cores. With --quick it takes fewer images and steps.
"""

import sys

import foolbox

import pyrobayes

quick = "--quick" in sys.argv
steps = 2 if quick else 40
x, y = pyrobayes.load_data("fashion-mnist-mini", "test").head(10 if quick else 100).batch(slice(None))

# foolbox takes a model for a deterministic function of the image. Fixed noise makes the classifier one.
classifier = pyrobayes.pretrained("gfz", noise="fixed", device="cpu")
model = foolbox.PyTorchModel(classifier.as_logits().eval(), bounds=(0, 1))

for name, attack, eps in (
    ("FGSM", foolbox.attacks.LinfFastGradientAttack(), 0.1),
    ("PGD", foolbox.attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps), 0.1),
    ("Carlini and Wagner, L2", foolbox.attacks.L2CarliniWagnerAttack(3, steps=2 if quick else 30), 1.5),
):
    _, adversarial, _ = attack(model, x, y, epsilons=eps)
    wrong = pyrobayes.evaluation.Rate.of(classifier(adversarial).argmax(1) != y)
    # An image may be misclassified by luck under one draw of the noise. Fresh draws tell.
    resampled = classifier.replaced(noise="fresh")(adversarial).argmax(1)
    print(f"{name:22} eps {eps:g}: {wrong.share:4.0%} wrong, {(resampled != y).float().mean():4.0%} with fresh noise")

#!/bin/sh
# version: torchmetrics 1.9.0, torch 2.15.0, scikit-learn 1.9.1, numpy 2.4.6
# guess: MulticlassAccuracy averages the accuracy of the classes that occur in the labels, as scikit-learn's balanced
#     accuracy does. Which wrong class an image is given to does not matter, and top 1 and top 2 are means of one set.
# what happens: for top 1 a class that occurs in no label, but was answered once, counts as a class of accuracy 0. Two
#     models that are right on the same half of the images get 0.45 and 0.08, by the number of their wrong classes. For
#     top 2 such classes are left out (0.5 and 0.5). MulticlassAccuracy averages so by default ("macro"); the same
#     metric as Accuracy(task="multiclass") defaults to "micro" (0.5 and 0.5).
# why it matters: reduced models are compared on a part of the validation set, where most of the 1,000 classes are
#     absent. The difference between two models is then that of the spread of their errors, not of their accuracy.
# known: Lightning-AI/torchmetrics#2418 (closed) led to the rule for top k; top 1 was left as it was.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 torchmetrics==1.9.0 scikit-learn==1.9.1
"$folder/venv/bin/python" -W ignore - <<'EOF'
from importlib.metadata import version

import sklearn
import torch
from sklearn.metrics import balanced_accuracy_score
from torchmetrics import Accuracy
from torchmetrics.classification import MulticlassAccuracy

print("torchmetrics", version("torchmetrics"), "torch", torch.__version__, "scikit-learn", sklearn.__version__)
labels = torch.arange(100) % 10
wrong = torch.arange(100) >= 50
seen = []
for name, wrong_class in (("one wrong class", torch.full((100,), 999)), ("50 wrong classes", 100 + torch.arange(100))):
    answers = torch.where(wrong, wrong_class, labels)
    second = torch.nn.functional.one_hot((answers + 500) % 1000, 1000)
    scores = torch.nn.functional.one_hot(answers, 1000) + 0.5 * second
    values = [
        MulticlassAccuracy(num_classes=1000)(scores, labels).item(),
        MulticlassAccuracy(num_classes=1000, top_k=2)(scores, labels).item(),
        Accuracy(task="multiclass", num_classes=1000)(scores, labels).item(),
        float(balanced_accuracy_score(labels, answers)),
    ]
    seen.append([round(value, 2) for value in values])
    print(f"{name}: MulticlassAccuracy, top 2, Accuracy, scikit-learn: {seen[-1]}")
raise SystemExit(seen != [[0.45, 0.5, 0.5, 0.5], [0.08, 0.5, 0.5, 0.5]])
EOF

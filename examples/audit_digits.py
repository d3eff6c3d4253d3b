"""A task for `wherefrom audit`: which training digits made a small network misread test digits?

    wherefrom audit examples/audit_digits.py --out out/audit

The file is plain Python. What `wherefrom audit` looks for are the names `model`, `train`, `queries` and
`loss`; the others below are optional.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import wherefrom
from wherefrom.report import Card

images, labels = load_digits(return_X_y=True)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
x, y = torch.as_tensor(images / 16)[order], torch.as_tensor(labels)[order]
train, test = (x[:800], y[:800]), (x[800:], y[800:])

# The model that is audited. It must be the same every time the file runs, so that a killed audit resumes:
# here it is trained from a fixed seed; a larger one would be loaded from its file.
torch.set_num_threads(1)  # so small a model gains nothing from more
loss = "cross_entropy"
weight_decay = 0.01
torch.manual_seed(0)
untrained = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
training = {"loss": loss, "weight_decay": weight_decay, "gradient_tolerance": 1e-5}
model = wherefrom.FullBatch(untrained, **training)(train, 0).eval()

# Which predictions to explain: with more than `--queries`, those of largest loss are taken.
queries = test

# How to train it again without some examples: any function recipe(train, seed) -> model.
recipe = wherefrom.FullBatch(model, warm_start=True, **training)

# What people see of an example.
name = "Digits, 64-16-10"
dtype = torch.float64


def describe_train(i: int) -> Card:
    return Card(f"train {i}", image=train[0][i].reshape(8, 8).numpy())


def describe_query(i: int) -> Card:
    return Card(f"test {i}", image=test[0][i].reshape(8, 8).numpy())

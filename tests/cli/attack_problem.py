"""Task files small enough to attack in a second."""

from __future__ import annotations

HEAD = """
import torch
from torch import nn
from sklearn.datasets import load_digits
import wherefrom

images, labels = load_digits(n_class=3, return_X_y=True)
x, y = torch.tensor(images / 16.0), torch.tensor(labels)
train, queries = (x[:60], y[:60]), (x[200:240], y[200:240])
loss, weight_decay = "cross_entropy", 1e-3
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 3)).double()
network[0].requires_grad_(False)
recipe = wherefrom.FullBatch(network, loss=loss, weight_decay=weight_decay)
model = recipe(train, 0).eval()
name = "Digits"
class_names = ["nought", "one", "two"]
attack = {"low": 0.0, "high": 1.0, "steps": 6}


def describe_train(i):
    return {"image": train[0][i].reshape(8, 8)}
"""

NETWORK = HEAD.replace("network[0].requires_grad_(False)\n", "damping, curvature = 0.01, 'ggn'\n").replace(
    "weight_decay=weight_decay)", "weight_decay=weight_decay, gradient_tolerance=1e-4)"
)

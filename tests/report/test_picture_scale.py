"""Pictures outside [0, 1] are shown on one scale, that of the data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wherefrom import Influence
from wherefrom.report import Describer
from wherefrom.report.images import common_scale, to_rgb


def test_pictures_of_different_contrast_stay_different():
    faint, strong = np.array([[-0.1, 0.1]] * 4), np.array([[-2.0, 2.0]] * 4)
    scale = common_scale([faint, strong])
    assert scale == (-2.0, 2.0)
    assert to_rgb(faint, scale)[0, :, 0].tolist() == [121, 134]
    assert to_rgb(strong, scale)[0, :, 0].tolist() == [0, 255]
    assert to_rgb(3 * strong, scale)[0, :, 0].tolist() == [0, 255]  # cut off


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([], None),
        ([np.full((4, 4), 7, dtype=np.uint8)], None),
        ([np.array([[0.0, 1.0]])], None),
        ([np.array([[0.0, 200.0]])], (0.0, 255.0)),
        ([np.array([[0.5, 3.5]])], (0.5, 3.5)),
        ([np.array([[np.nan, np.nan]])], None),
        ([np.full((2, 2), 5.5)], None),
    ],
)
def test_the_scale_of_a_data_set(images, expected):
    assert common_scale(images) == expected


def test_cards_of_queries_take_the_scale_of_the_training_data():
    draw = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(30, 1, 8, 8, generator=draw)
    y = torch.randint(0, 2, (30,), generator=draw)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    objective = Influence(model, (x, y), loss="cross_entropy", progress=False).objective
    train = Describer(objective, (x, y), objective.examples, "train")
    asked = (0.1 * x[:3], y[:3])
    query = Describer(objective, asked, objective.read(asked, role="queries"), "query", like=train)
    assert train(0).scale == query(0).scale == (float(x.min()), float(x.max()))
    assert query(0).predicted is not None

"""A small sequence classifier on disk."""

import shutil

import torch
from transformers import AutoModelForSequenceClassification


def save_classifier(source, folder, outputs=1, seed=0, **config):
    """A classifier with a random but saved head."""
    shutil.copytree(source, folder)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=outputs)
    model.score.weight.data.normal_()
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    return folder

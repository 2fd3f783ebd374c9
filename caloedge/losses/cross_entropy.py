"""Cross entropy of the logits of several classes."""

from torch.nn import functional

from caloedge.catalog import Loss

LOSS = Loss("outputs (N, classes) are logits, targets the probabilities of the classes", functional.cross_entropy)

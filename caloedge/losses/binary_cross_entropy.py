"""Binary cross entropy of logits."""

from torch.nn import functional

from caloedge.catalog import Loss

LOSS = Loss("outputs (N, …) are logits, targets 0 or 1", functional.binary_cross_entropy_with_logits)

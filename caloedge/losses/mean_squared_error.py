"""Mean squared error."""

from torch.nn import functional

from caloedge.catalog import Loss

LOSS = Loss("outputs (N, …) estimate the targets", functional.mse_loss, distillable=True)

"""From QONNX to the exact integer network."""

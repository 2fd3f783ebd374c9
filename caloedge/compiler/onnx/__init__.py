"""ONNX and QONNX files, read operator by operator into the exact integer network."""

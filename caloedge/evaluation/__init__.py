"""Accuracy and float latency of every network of an artifact."""

"""Cycles, clock, resources and trigger budgets of built designs."""

"""What built designs do and cost: cycles, clock, resources, budgets."""

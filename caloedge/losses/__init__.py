"""What trainings make small: plug-ins that tasks name, each in torch; tasks themselves need none."""

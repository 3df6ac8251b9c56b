"""From an objective to an estimate: the fit, standard errors, tests, statuses, reports and pictures."""

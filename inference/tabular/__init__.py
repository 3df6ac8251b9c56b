"""Dynamic programming on tables: messages, believed dynamics, posteriors, filters."""

"""Networks: perceptrons, modules, flows, and how their outputs become distributions over actions."""

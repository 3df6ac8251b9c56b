"""What every wing of the models shares: numerics, checks of input, options, devices."""
